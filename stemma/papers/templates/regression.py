"""Coefficients of regressions that R prints: median and other quantiles, beta regression."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from stemma.papers.model import Claim
from stemma.papers.plan import Alternative, Cell, Dataset, Method, Parameters, Target
from stemma.papers.templates.template import Measurable, Template, no_alternatives, says, slug

_STATSMODELS: Final = "statsmodels"
_ENGEL: Final = Dataset(
    name="engel",
    package=_STATSMODELS,
    loader="statsmodels.datasets.engel",
    licence="Public domain",
    note="Engel's data of 1857 on 235 households.",
)
_FOOD: Final = Dataset(
    name="FoodExpenditure",
    package=_STATSMODELS,
    loader="statsmodels/othermod/tests/results/foodexpenditure.csv",
    licence="BSD-3-Clause (statsmodels)",
    note="38 households, Griffiths et al. (1993), table 15.4.",
)
_TERM: Final = re.compile(r"(?:\w+ )?coefficient\s+(?:of\s+)?(.+)", re.IGNORECASE)
_TAU: Final = re.compile(r"\btau\s*=\s*(0?\.\d+)")


def _term(claim: Claim) -> str | None:
    """Which coefficient a claim tells of."""
    found = _TERM.fullmatch(claim.metric)
    return found[1].strip("() ").lower() if found else None


def _quantile(claim: Claim) -> Measurable | None:
    term, method = _term(claim), claim.method or ""
    if not says(method, r"\brq\(", "quantile regression", "median regression") or not says(claim.dataset, r"\bengel\b"):
        return None
    if term not in ("intercept", "income") or not says(method, r"foodexp\s*~\s*income[,)\s]"):
        return None
    tau = _TAU.search(method)
    parameters: Parameters = {"term": term, "tau": float(tau[1]) if tau else 0.5}
    return Measurable(_ENGEL, f"coef.{term}", "all", parameters)


QUANTILE: Final = Template(
    name="quantile-regression",
    method=Method(
        name="Quantile regression",
        description="Food expenditure on income; the linear program of Koenker and Bassett (1978), solved exactly.",
    ),
    packages=(_STATSMODELS, "scipy", "numpy"),
    measure=_quantile,
    alternatives=no_alternatives,
    cells=(
        Cell(
            source="""\
from importlib import import_module

import numpy as np
from scipy.optimize import linprog

engel = import_module(DATASET["loader"]).load_pandas().data
print(engel.shape)"""
        ),
        Cell(
            source='''\
def quantile_regression(tau):
    """Intercept and slope that minimize the sum of tau-weighted absolute residuals."""
    income, expenditure = engel["income"].to_numpy(), engel["foodexp"].to_numpy()
    count, design = len(income), np.column_stack([np.ones(len(income)), income])
    costs = np.concatenate([np.zeros(2), np.full(count, tau), np.full(count, 1 - tau)])
    balance = np.hstack([design, np.eye(count), -np.eye(count)])
    bounds = [(None, None)] * 2 + [(0, None)] * (2 * count)
    solved = linprog(costs, A_eq=balance, b_eq=expenditure, bounds=bounds, method="highs")
    assert solved.success, solved.message
    return dict(zip(("intercept", "income"), solved.x[:2]))'''
        ),
        Cell(
            source="""\
for done, (metric, target) in enumerate(TARGETS.items(), start=1):
    parameters = target["parameters"]
    report(metric, quantile_regression(parameters["tau"])[parameters["term"]], target["split"])
    progress(100 * done // len(TARGETS), metric)"""
        ),
    ),
)


def _beta(claim: Claim) -> Measurable | None:
    term, method = _term(claim), re.sub(r"\s+", " ", claim.method or "")
    if not says(method, r"\bbetareg\(", "beta regression") or not says(claim.dataset, "foodexpenditure"):
        return None
    # A second part of the formula lets the precision vary, another link bends the mean: other models than this one.
    if not says(method, r"~ ?income \+ persons ?[,)]") or says(method, r"\blink\b"):
        return None
    if term not in ("intercept", "income", "persons", "phi"):
        return None
    return Measurable(_FOOD, f"coef.{slug(term)}", "all", {"term": term})


def _normal_regression(targets: Sequence[Target]) -> tuple[Alternative, ...]:
    of_the_mean = tuple(target.metric for target in targets if target.parameters["term"] != "phi")
    if not of_the_mean:
        return ()
    return (
        Alternative(
            name="least-squares",
            description="Ordinary least squares on the share itself",
            targets=of_the_mean,
            parameters={"model": "least-squares"},
        ),
        Alternative(
            name="logit-least-squares",
            description="Ordinary least squares on the logit of the share",
            targets=of_the_mean,
            parameters={"model": "logit-least-squares"},
        ),
    )


BETA: Final = Template(
    name="beta-regression",
    method=Method(
        name="Beta regression",
        description="Share of income spent on food, on income and persons: logit link, constant precision, maximum "
        "likelihood.",
        parameters={"model": "beta"},
    ),
    packages=(_STATSMODELS, "pandas", "numpy"),
    measure=_beta,
    alternatives=_normal_regression,
    cells=(
        Cell(
            source="""\
from importlib.resources import files

import numpy as np
import pandas as pd
from statsmodels.api import OLS
from statsmodels.othermod.betareg import BetaModel

package, _, path = DATASET["loader"].partition("/")
with files(package).joinpath(path).open() as table:
    food = pd.read_csv(table)
share = food["food"] / food["income"]
design = np.column_stack([np.ones(len(food)), food["income"], food["persons"]])
names = ("intercept", "income", "persons")
print(food.shape)"""
        ),
        Cell(
            source='''\
def estimates(model):
    """The coefficients of the mean and, of a beta regression, the precision phi."""
    if model == "beta":
        fitted = BetaModel(share.to_numpy(), design).fit(method="bfgs", maxiter=1000, disp=False)
        return {**dict(zip(names, fitted.params[:3])), "phi": float(np.exp(fitted.params[3]))}
    response = share if model == "least-squares" else np.log(share / (1 - share))
    return dict(zip(names, OLS(response.to_numpy(), design).fit().params))'''
        ),
        Cell(
            source="""\
for done, (metric, target) in enumerate(TARGETS.items(), start=1):
    parameters = target["parameters"]
    report(metric, estimates(parameters["model"])[parameters["term"]], target["split"])
    progress(100 * done // len(TARGETS), metric)"""
        ),
    ),
)
