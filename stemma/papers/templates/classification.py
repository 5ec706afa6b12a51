"""Accuracies of classical classifiers: leave-one-out, train and test split, cross-validation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from stemma.papers.model import Claim
from stemma.papers.plan import Alternative, Cell, Dataset, Method, Parameters, Target
from stemma.papers.templates.template import Measurable, Template, no_alternatives, says, slug

_SKLEARN: Final = "scikit-learn"
_UCI: Final = "CC BY 4.0 (UCI)"
_TOYS: Final = {
    r"\bwine\b": Dataset(name="wine", package=_SKLEARN, loader="sklearn.datasets.load_wine", licence=_UCI),
    r"\biris\b": Dataset(name="iris", package=_SKLEARN, loader="sklearn.datasets.load_iris", licence=_UCI),
    r"breast.cancer|wdbc": Dataset(
        name="breast cancer", package=_SKLEARN, loader="sklearn.datasets.load_breast_cancer", licence=_UCI
    ),
}
_NEIGHBOURS: Final = re.compile(r"\b(\d{1,2})[- ]?NN\b|\b(\d{1,2})[- ]nearest", re.IGNORECASE)
_STANDARDIZED: Final = (r"z-transform", r"standardi[sz]ed", r"z-scor")


def _toy(claim: Claim) -> Dataset | None:
    return next((dataset for pattern, dataset in _TOYS.items() if says(claim.dataset, pattern)), None)


def _classifier(method: str | None) -> tuple[str, Parameters] | None:
    """The classifier that a method names, and its parameters."""
    if says(method, r"\bQDA\b", r"quadratic discriminant"):
        return "qda", {"classifier": "qda"}
    if says(method, r"\bLDA\b", r"linear discriminant"):
        return "lda", {"classifier": "lda"}
    if found := _NEIGHBOURS.search(method or ""):
        count = int(found[1] or found[2])
        return f"{count}nn", {"classifier": "nearest_neighbours", "neighbours": count}
    return None


def _leave_one_out(claim: Claim) -> Measurable | None:
    dataset, named = _toy(claim), _classifier(claim.method)
    told = f"{claim.metric} {claim.split or ''}"
    if dataset is None or named is None or not says(told, r"\bLOO\b", r"leave[- ]one[- ]out"):
        return None
    if not says(told, "accuracy", "error"):
        return None
    name, parameters = named
    scaling = "z" if says(claim.method, *_STANDARDIZED) else "none"
    measured: Parameters = {
        **parameters,
        "scaling": scaling,
        "percent": claim.unit == "%",
        "error": says(told, "error"),
    }
    return Measurable(dataset, f"{name}.{'error' if says(told, 'error') else 'accuracy'}", "loo", measured)


def _other_distances(targets: Sequence[Target]) -> tuple[Alternative, ...]:
    """What a paper leaves open of a nearest-neighbour rule: the scaling of its features and its distance."""
    nearest = tuple(target.metric for target in targets if target.parameters["classifier"] == "nearest_neighbours")
    if not nearest:
        return ()
    open_choices: list[tuple[str, str, Parameters]] = [
        ("raw-features", "The features as they are, without scaling", {"scaling": "none"}),
        ("min-max", "Features scaled to 0–1 instead of to unit variance", {"scaling": "min-max"}),
        ("z-per-fold", "Features scaled by what is left in, instead of by all samples", {"scaling": "z-per-fold"}),
        ("manhattan", "City-block distance instead of Euclidean", {"distance": "manhattan"}),
        (
            "min-max-manhattan",
            "Features scaled to 0–1, and city-block distance",
            {"scaling": "min-max", "distance": "manhattan"},
        ),
    ]
    return tuple(
        Alternative(name=name, description=text, targets=nearest, parameters=parameters)
        for name, text, parameters in open_choices
    )


LEAVE_ONE_OUT: Final = Template(
    name="classifiers-leave-one-out",
    method=Method(
        name="Leave-one-out classification",
        description="Each sample is classified by what was learned from all others; the share of those that are right.",
        parameters={"distance": "euclidean", "scaling": "none"},
    ),
    packages=(_SKLEARN, "numpy"),
    measure=_leave_one_out,
    alternatives=_other_distances,
    cells=(
        Cell(
            source="""\
from importlib import import_module

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

module, _, loader = DATASET["loader"].rpartition(".")
X, y = getattr(import_module(module), loader)(return_X_y=True)
print(X.shape, np.bincount(y))"""
        ),
        Cell(
            source='''\
def scaled(scaling):
    """The features as the scaling has them; what is fitted within each fold is left to the pipeline."""
    if scaling == "z":
        return StandardScaler().fit_transform(X)
    return MinMaxScaler().fit_transform(X) if scaling == "min-max" else X


def classifier(parameters):
    if parameters["classifier"] == "lda":
        return LinearDiscriminantAnalysis()
    if parameters["classifier"] == "qda":
        return QuadraticDiscriminantAnalysis()
    nearest = KNeighborsClassifier(parameters["neighbours"], metric=parameters["distance"])
    return make_pipeline(StandardScaler(), nearest) if parameters["scaling"] == "z-per-fold" else nearest'''
        ),
        Cell(
            source="""\
for done, (metric, target) in enumerate(TARGETS.items(), start=1):
    parameters = target["parameters"]
    predicted = cross_val_predict(classifier(parameters), scaled(parameters["scaling"]), y, cv=LeaveOneOut())
    right = int((predicted == y).sum())
    share = (len(y) - right if parameters["error"] else right) / len(y)
    print(f"{metric}: {right} of {len(y)} right")
    report(metric, share * 100 if parameters["percent"] else share, target["split"])
    progress(100 * done // len(TARGETS), metric)"""
        ),
    ),
)


_PLANE_FEATURES: Final = {
    "worst area": r"worst area",
    "worst smoothness": r"worst smoothness",
    "mean texture": r"mean texture",
}


def _plane(claim: Claim) -> Measurable | None:
    dataset = _toy(claim)
    if dataset is None or dataset.name != "breast cancer" or not says(claim.method, r"\bplane\b"):
        return None
    if not says(f"{claim.metric} {claim.split or ''}", r"10-fold|cross-validation|\bCV\b"):
        return None
    parameters: Parameters = {
        "features": tuple(_PLANE_FEATURES),
        "folds": 10,
        "plane": "support vectors",
        "penalty": 1.0,
        "percent": claim.unit == "%",
    }
    return Measurable(dataset, "plane.accuracy", "cv", parameters)


def _other_planes(targets: Sequence[Target]) -> tuple[Alternative, ...]:
    metrics = tuple(target.metric for target in targets)
    return (
        Alternative(
            name="stiff-margin",
            description="A hundred times the penalty for what lies on the wrong side",
            targets=metrics,
            parameters={"penalty": 100.0},
        ),
        Alternative(
            name="logistic-plane",
            description="The plane of a logistic regression",
            targets=metrics,
            parameters={"plane": "logistic"},
        ),
        Alternative(
            name="fisher-plane",
            description="The plane of a linear discriminant analysis",
            targets=metrics,
            parameters={"plane": "discriminant"},
        ),
    )


SEPARATING_PLANE: Final = Template(
    name="separating-plane-cross-validated",
    method=Method(
        name="Separating plane, cross-validated",
        description="A linear support vector machine on three standardized features; accuracy in shuffled 10-fold "
        "cross-validation, once for each seed.",
        substitution="A linear support vector machine stands in for the multisurface method tree (MSM-T).",
    ),
    packages=(_SKLEARN, "numpy"),
    measure=_plane,
    alternatives=_other_planes,
    stochastic=True,
    cells=(
        Cell(
            source="""\
from importlib import import_module

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

module, _, loader = DATASET["loader"].rpartition(".")
data = getattr(import_module(module), loader)()
names, y = [str(name) for name in data.feature_names], data.target
print(data.data.shape)


def classifier(parameters):
    if parameters["plane"] == "logistic":
        return LogisticRegression(C=parameters["penalty"])
    if parameters["plane"] == "discriminant":
        return LinearDiscriminantAnalysis()
    return SVC(kernel="linear", C=parameters["penalty"])"""
        ),
        Cell(
            source="""\
for done, (metric, target) in enumerate(TARGETS.items(), start=1):
    parameters = target["parameters"]
    X = data.data[:, [names.index(name) for name in parameters["features"]]]
    plane = make_pipeline(StandardScaler(), classifier(parameters))
    folds = KFold(parameters["folds"], shuffle=True, random_state=SEED)
    share = float((cross_val_predict(plane, X, y, cv=folds) == y).mean())
    report(metric, share * 100 if parameters["percent"] else share, target["split"])
    progress(100 * done // len(TARGETS), metric)"""
        ),
    ),
)


_UCR: Final = Dataset(
    name="UCR time series",
    package="aeon",
    loader="aeon.datasets.load_classification",
    licence="Attribution (Dau et al. 2018)",
    note="aeon brings these four problems along; it is installed apart, since it needs older packages than Stemma.",
)
_UCR_PROBLEMS: Final = ("GunPoint", "ItalyPowerDemand", "ArrowHead", "OSULeaf")


def _nearest_series(claim: Claim) -> Measurable | None:
    problem = next((name for name in _UCR_PROBLEMS if says(claim.dataset, rf"\b{name}\b")), None)
    if problem is None or not says(claim.method, r"\b1-?NN\b", r"nearest neighbou?r"):
        return None
    if says(claim.method, r"\bDTW\b", "warping") or not says(claim.metric, "accuracy", "error"):
        return None
    error = says(claim.metric, "error")
    parameters: Parameters = {"problem": problem, "percent": claim.unit == "%", "error": error}
    return Measurable(_UCR, f"{slug(problem)}.{'error' if error else 'accuracy'}", "test", parameters)


NEAREST_SERIES: Final = Template(
    name="nearest-series",
    method=Method(
        name="1-nearest neighbour by Euclidean distance",
        description="Each series of the test split gets the class of the nearest one of the training split.",
    ),
    packages=("aeon", "numpy"),
    measure=_nearest_series,
    alternatives=no_alternatives,
    cells=(
        Cell(
            source="""\
import numpy as np
from aeon.datasets import load_classification

for done, (metric, target) in enumerate(TARGETS.items(), start=1):
    parameters = target["parameters"]
    known, known_classes = load_classification(parameters["problem"], split="train")
    asked, classes = load_classification(parameters["problem"], split="test")
    known, asked = known.reshape(len(known), -1), asked.reshape(len(asked), -1)
    nearest = [int(((known - series) ** 2).sum(axis=1).argmin()) for series in asked]
    share = float((known_classes[nearest] == classes).mean())
    share = 1 - share if parameters["error"] else share
    report(metric, share * 100 if parameters["percent"] else share, target["split"])
    progress(100 * done // len(TARGETS), metric)"""
        ),
    ),
)
