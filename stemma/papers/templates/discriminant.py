"""Coefficients of Fisher's linear discriminant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stemma.papers.model import Claim
from stemma.papers.plan import Alternative, Cell, Dataset, Method, Parameters, Target
from stemma.papers.templates.template import Measurable, Template, says, slug

_IRIS: Final = Dataset(
    name="iris",
    package="scikit-learn",
    loader="sklearn.datasets.load_iris",
    licence="CC BY 4.0 (UCI)",
    note="With the two rows as Fisher printed them.",
)
_VARIABLES: Final = ("sepal length", "sepal width", "petal length", "petal width")


def _coefficient(claim: Claim) -> Measurable | None:
    if not (says(claim.dataset, r"\biris\b") and says(claim.method, "fisher", "linear discriminant")):
        return None
    variable = next((name for name in _VARIABLES if says(claim.metric, name)), None)
    if variable is None or not says(claim.metric, "coef"):
        return None
    parameters: Parameters = {"variable": variable, "scaled_by": "sepal length"}
    return Measurable(_IRIS, f"coef.{slug(variable)}", "all", parameters)


def _other_dispersions(targets: Sequence[Target]) -> tuple[Alternative, ...]:
    metrics = tuple(target.metric for target in targets)
    return (
        Alternative(
            name="three-species",
            description="Sums of products pooled within all three species instead of the two that are separated",
            targets=metrics,
            parameters={"pooled": ("setosa", "versicolor", "virginica")},
        ),
    )


FISHER: Final = Template(
    name="fisher-discriminant",
    method=Method(
        name="Fisher's linear discriminant",
        description="The compound of the measurements that separates I. versicolor from I. setosa best, from sums of "
        "squares and products pooled within the two species, scaled so that sepal length has the coefficient 1.",
        parameters={"species": ("setosa", "versicolor"), "pooled": ("setosa", "versicolor")},
    ),
    packages=("scikit-learn", "numpy"),
    measure=_coefficient,
    alternatives=_other_dispersions,
    cells=(
        Cell(
            source="""\
from importlib import import_module

import numpy as np

module, _, loader = DATASET["loader"].rpartition(".")
iris = getattr(import_module(module), loader)()
variables = [name.removesuffix(" (cm)") for name in iris.feature_names]
of_species = {str(name): iris.data[iris.target == number] for number, name in enumerate(iris.target_names)}
print({name: rows.shape for name, rows in of_species.items()})"""
        ),
        Cell(
            source='''\
def products(rows):
    """Sums of squares and products about the mean."""
    apart = rows - rows.mean(axis=0)
    return apart.T @ apart


def discriminant(parameters):
    first, second = (of_species[name] for name in parameters["species"])
    dispersion = sum(products(of_species[name]) for name in parameters["pooled"])
    weights = np.linalg.solve(dispersion, second.mean(axis=0) - first.mean(axis=0))
    return weights / weights[variables.index(parameters["scaled_by"])]'''
        ),
        Cell(
            source="""\
for done, (metric, target) in enumerate(TARGETS.items(), start=1):
    parameters = target["parameters"]
    report(metric, discriminant(parameters)[variables.index(parameters["variable"])], target["split"])
    progress(100 * done // len(TARGETS), metric)"""
        ),
    ),
)
