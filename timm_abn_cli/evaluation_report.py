"""What an evaluation found, as tables for people and as a picture of its curves; imports the library."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from timm_abn.errors import shortened
from timm_abn.explain.evaluation.classes import OTHERS
from timm_abn.explain.evaluation.results import FAITHFULNESS, GAINS, REPLACEMENTS, TITLES, Evaluation
from timm_abn.explain.statistics import Interval
from timm_abn.staging import staged_file

from .table import format_table

__all__ = ['draw_curves', 'report']

OTHER_CLASSES = 'all with fewer than 10 images'
# columns of the first table; all others stand in the second
SCORES = (*GAINS, 'deletion', 'insertion')


def report(evaluation: Evaluation, names: Sequence[str], by_class: bool = False) -> str:
    """Return tables of the scores, their differences to the first method, reliance, what was wrong, and verdicts.

    Args:
        evaluation: What is reported.
        names: Of the model's classes, or tasks.
        by_class: Whether the gains are told for each predicted class, too.
    """
    sections = [_score_table(evaluation), _map_table(evaluation)]
    if evaluation.uneven:
        uneven = ', '.join(f'{name.replace("_", " ")} {value:.3f}' for name, value in evaluation.uneven.items())
        sections.append(f'Classes are uneven: {uneven.replace("roc", "ROC")}')
    if evaluation.differences:
        first = next(iter(evaluation.scores))
        columns = list(next(iter(evaluation.differences.values())))
        rows = [[method, *map(str, row.values())] for method, row in evaluation.differences.items()]
        table = format_table(['method', *(TITLES[name] for name in columns)], rows)
        sections.append(f'Paired differences to {first}: they differ if the interval excludes 0\n{table}')
    if evaluation.targets:
        sections.append(f'Each task\n{_target_table(evaluation.targets, "task", names)}')
    if by_class:
        sections.append(f'Each predicted class\n{_target_table(evaluation.by_class, "class", names)}')
    if evaluation.reliance:
        sections.append(_reliance_table(evaluation))
    sections.append(_remarks(evaluation, names))
    sections.append('\n'.join(f'{method}: {words}' for method, words in evaluation.verdicts.items()))
    return '\n\n'.join(section for section in sections if section)


def _score_table(evaluation: Evaluation) -> str:
    layers = evaluation.settings['layers']
    shown = [name for name in SCORES if name in evaluation.metrics]
    rows = [
        [method, layers.get(method) or '-', *(str(row[name]) for name in shown)]
        for method, row in evaluation.scores.items()
    ]
    first = [row for row in evaluation.rows if row['method'] == next(iter(evaluation.scores), '')]
    number = len({row['image'] for row in first})
    labelled = evaluation.accuracy.number
    accuracy = f', accuracy {evaluation.accuracy} on {labelled} with a label' if labelled else ', none with a label'
    table = format_table(['method', 'layer', *(TITLES[name] for name in shown)], rows)
    few = max(Counter(row['method'] for row in evaluation.rows if row['mean_map_of_all']).values(), default=0)
    note = f'\nFor {few} of {len(first)} the mean map is over all other images: fewer than 5 are of the same class'
    return f'Scores: mean and 95 % interval over {number} images{accuracy}\n{table}{note if few else ""}'


def _map_table(evaluation: Evaluation) -> str:
    """Return the scores of where maps lie, and of what they depend on."""
    shown = [name for name in evaluation.metrics if name not in SCORES]
    rows = []
    for method, row in evaluation.scores.items():
        bias = evaluation.position_bias[method]
        rows.append([method, *(str(row[name]) for name in shown), '-' if bias != bias else f'{bias:.2f}'])
    table = format_table(['method', *(TITLES[name] for name in shown), 'position bias ↓'], rows)
    title = 'Maps; 1 in the last columns: the map is the same for another class, another head, another image'
    return f'{title}\n{table}'


def _target_table(targets: Mapping[str, Mapping[int, Mapping[str, Interval]]], what: str, names: Sequence[str]) -> str:
    """Return the scores of each task or class, of all methods."""
    columns = list(next(row for by_target in targets.values() for row in by_target.values()))
    rows = []
    for target in dict.fromkeys(target for by_target in targets.values() for target in by_target):
        name = OTHER_CLASSES if target == OTHERS else names[target]
        for method, by_target in targets.items():
            row = by_target.get(target, {})
            number = max((interval.number for interval in row.values()), default=0)
            rows.append([name, method, str(number), *(str(row.get(column, '-')) for column in columns)])
    return format_table([what, 'method', 'images', *(TITLES[name] for name in columns)], rows)


def _reliance_table(evaluation: Evaluation) -> str:
    columns: Mapping[str, str] = {
        'accuracy_change': 'accuracy changes by',
        'changed_predictions': 'predictions changed',
        'probability_change': 'probabilities change by',
        'effect': 'pre-logits change by',
    }
    effects = evaluation.reliance.values()
    shown = [name for name in columns if any(name in row and row[name].number for row in effects)]
    rows = [
        [REPLACEMENTS[replacement], *(str(row[name]) for name in shown)]
        for replacement, row in evaluation.reliance.items()
    ]
    table = format_table(['map used instead of the predicted one', *(columns[name] for name in shown)], rows)
    return f'Reliance: what the prediction loses when its map is replaced\n{table}'


def _remarks(evaluation: Evaluation, names: Sequence[str]) -> str:
    remarks = list(evaluation.findings)
    remarks += [f'{count} x {problem}' for problem, count in evaluation.problems.items()]
    missing = [names[index] for index in evaluation.classes_without_examples]
    if missing:
        remarks.append(f'{len(missing)} of {len(names)} classes without examples: {shortened(missing)}')
    return '\n'.join(remarks)


def draw_curves(path: Path, evaluation: Evaluation) -> None:
    """Write a PNG file of the mean deletion and insertion curves with the bands of their 95 % intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), layout='constrained')
    axes = figure.subplots(1, 2, sharey=True)
    for index, (axis, metric) in enumerate(zip(axes, FAITHFULNESS[1:])):
        for method, band in evaluation.curves.items():
            mean, low, high = band[index].tolist()
            fractions = [step / (len(mean) - 1) for step in range(len(mean))]
            scores = evaluation.scores[method]
            label = f'{method}  {scores[metric].mean:.3f}  (SRG {scores["symmetric_relevance_gain"].mean:.3f})'
            (line,) = axis.plot(fractions, mean, label=label, linewidth=1.6)
            axis.fill_between(fractions, low, high, alpha=0.18, color=line.get_color(), linewidth=0)
        better = 'lower' if metric == 'deletion' else 'higher'
        axis.set(
            title=f'{TITLES[metric]}  {better} is better', xlabel=f'share of the pixels after {metric}', xlim=(0, 1)
        )
        axis.grid(alpha=0.25)
        axis.spines[['top', 'right']].set_visible(False)
        axis.legend(frameon=False, title='area under the curve', alignment='left')
    axes[0].set_ylabel('probability of the explained class')
    axes[0].set_ylim(bottom=0)
    with staged_file(path) as staged:
        figure.savefig(staged, dpi=150)
