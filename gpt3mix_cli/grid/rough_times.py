"""A rough time of `fit` from the sizes of data and models, for `init`: nothing is loaded or run.

Measured speeds of one core of a server processor of 2023 stand for any machine, so the time may be
wrong by a factor of two, and is too long where there is a GPU. `plan` measures (`times`).
"""

from statistics import fmean

from ..settings import Experiment
from .data_profile import DataProfile
from .executors.processes import count_fitting_workers
from .init import TOKENS_PER_WORD

# Parameters that take part in each token's matrix products: without embeddings.
PARAMETERS = {"minilm": 10.7e6, "smollm2": 134e6, "bundled": 3.8e6}
TRAINING_SPEED = 34e9  # floating-point operations a second and core, with short texts
WRITING_SPEED = 60e9  # of a local LM, which reads the beginning of its prompts once for all
ATTEMPTS_PER_ROW = 1.3  # rejected rows, the rest of a block
NUM_CHECKED_ROWS = 32  # real rows that the LM labels first
HEADER_TOKENS, LABEL_TOKENS = 30, 10  # of a prompt; of each of its examples
TEST_FRACTION = 0.2  # of a file without test rows
START_S = 20.0  # starting, loading models, linear classifiers
MAX_THREADS = 4  # of the last two trainings


def rough_fit_seconds(experiment: Experiment, profile: DataProfile) -> float | None:
    """Return about how long `fit` takes on this machine's cores; None if a model is not known.

    Args:
        experiment: of a config that `init` wrote.
        profile: of its data.
    """
    rows = float(sum(profile.classes.values()))
    if "test" not in profile.splits:
        rows *= 1 - (1 / experiment.task.folds if experiment.task.folds else TEST_FRACTION)
    if "validation" not in profile.splits:
        rows *= 1 - experiment.subsample.validation_fraction
    tokens = fmean(profile.words) * TOKENS_PER_WORD + 2
    try:
        writing = _writing_seconds(experiment, rows, tokens)
        trials, longest = _training_seconds(experiment, rows, tokens)
    except KeyError:
        return None
    cores = count_fitting_workers(1)
    last = 2 * longest / min(cores, MAX_THREADS)
    return START_S + (writing + trials) / cores + last


def _writing_seconds(experiment: Experiment, rows: float, tokens: float) -> float:
    """Return the seconds on one core in which the LM writes all synthetic sets."""
    if experiment.lm is None:
        return 0.0
    settings, seeds = experiment.augment, experiment.subsample.seeds
    num_sets = sum(len(experiment.draws_for(seed)) for seed in seeds)
    prompt = HEADER_TOKENS + settings.k * (tokens + LABEL_TOKENS)
    attempts = num_sets * (settings.ratio * rows * ATTEMPTS_PER_ROW + NUM_CHECKED_ROWS)
    operations = 2 * PARAMETERS[experiment.lm.model] * (prompt + tokens)
    return attempts * operations / WRITING_SPEED


def _training_seconds(experiment: Experiment, rows: float, tokens: float) -> tuple[float, float]:
    """Return the seconds on one core of all trials of encoders, and of the longest trial."""
    total = longest = 0.0
    for classifier in experiment.classifiers:
        if classifier.kind != "transformer":
            continue
        length = min(tokens, classifier.max_length)
        row_seconds = 6 * PARAMETERS[classifier.model] * length / TRAINING_SPEED
        for method in experiment.methods:
            is_augmented = method != "none"
            trained = rows * (1 + experiment.augment.ratio * is_augmented)
            seconds = row_seconds * trained * classifier.max_epochs
            longest = max(longest, seconds)
            for seed in experiment.subsample.seeds:
                total += seconds * len(experiment.trials_for(classifier, seed))
    return total, longest
