"""A model to judge and a sealed release in, a verdict beside the champion and an entry in the registry out."""

from __future__ import annotations

from pathlib import Path

from endcap.contracts.configuration import Configuration
from endcap.contracts.errors import ArtifactError, InputError
from endcap.contracts.release import Blessing, Ranking, Retrieval, Tensor
from endcap.contracts.reporting import Reporter
from endcap.evaluation.gate import GraphParity
from endcap.evaluation.rating import RatingComparison
from endcap.features.dataset import FeatureTables
from endcap.flows import judging
from endcap.flows.evidence import Gathered
from endcap.flows.fitting import FittedModel
from endcap.flows.rating_verdict import judge_ratings_on_test
from endcap.releases.ancestry import release_path
from endcap.releases.bundle import Release, open_release
from endcap.releases.mirror import Mirrored, mirror_for
from endcap.releases.registry import Registration, Registry
from endcap.workspace.layout import Workspace

CHAMPION = "champion"


def judge_beside_champion(
    workspace: Workspace,
    tables: FeatureTables,
    configuration: Configuration,
    folder: Path,
    retrieval: Retrieval,
    inputs: list[Tensor],
    report: Reporter,
    gathered: Gathered | None = None,
) -> judging.Judged:
    """Judge on the test period, against the champion too where there is one that can be compared.

    A champion that is damaged, gone, or was made of other columns or later purchases is left out, and the report says
    so: it must not keep a better release from being made.
    """
    judged = (workspace, tables, configuration, folder, retrieval, inputs)
    try:
        champion = find_champion(workspace, configuration.release.name)
        if champion is not None:
            return judging.judge_on_test(*judged, champion=champion, gathered=gathered)
    except (InputError, ArtifactError) as error:
        report.event("the champion can't be compared; judged without it", error=str(error))
    return judging.judge_on_test(*judged, gathered=gathered)


def judge_ratings_beside_champion(
    workspace: Workspace,
    tables: FeatureTables,
    configuration: Configuration,
    folder: Path,
    ranking: Ranking,
    model: FittedModel,
    report: Reporter,
    parity: GraphParity | None = None,
) -> judging.Judged:
    """Judge predicted numbers, against the champion's too where it predicts the same; otherwise as `judge_beside_champion`."""
    if model.rating is None:
        raise InputError(
            "A release that ranks needs a model with a rating head; train with model_type=ranking or multitask."
        )
    judged = (tables, configuration, folder, ranking, model.fitted, model.rating, parity)
    try:
        champion = find_champion(workspace, configuration.release.name)
        if champion is not None:
            return judged_ratings(*judge_ratings_on_test(*judged, champion))
    except (InputError, ArtifactError) as error:
        report.event("the champion's ratings can't be compared; judged without them", error=str(error))
    return judged_ratings(*judge_ratings_on_test(*judged))


def judged_ratings(comparison: RatingComparison, blessing: Blessing) -> judging.Judged:
    """A judgement of ratings alone."""
    return judging.Judged(None, blessing, ratings=comparison)


def find_champion(workspace: Workspace, name: str) -> Release | None:
    """The release that the alias `champion` names, checked; None when it names none.

    Raises InputError when it is gone, ArtifactError when it is damaged or not the one that was named.
    """
    move = Registry.of(workspace).alias(name, CHAMPION)
    if move is None or move.version is None:
        return None
    release = open_release(release_path(workspace, name, move.version))
    if release.digest != move.digest:
        raise ArtifactError(
            f"{release.path} has the digest {release.digest[:12]}; champion names one with {str(move.digest)[:12]}. "
            "Restore that release, or move the alias."
        )
    return release


def register(workspace: Workspace, configuration: Configuration, release: Release, report: Reporter) -> Registration:
    """Register a sealed release, blessed or not, and tell the mirror where one is configured."""
    registration = Registry.of(workspace).register(release)
    Mirrored(mirror_for(configuration.release.mlflow_uri), report).register(registration)
    return registration
