"""What an evaluation found, as tables for people and as a picture of its curves; imports the library."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from timm_abn.errors import shortened
from timm_abn.explain.evaluation.results import FAITHFULNESS, REPLACEMENTS, TITLES, Evaluation
from timm_abn.staging import staged_file

from .table import format_table

__all__ = ['draw_curves', 'report']


def report(evaluation: Evaluation, names: Sequence[str]) -> str:
    """Return tables of the scores, their differences to the first method, reliance, and what was wrong.

    ``names`` are those of the model's classes, or tasks.
    """
    first = next(iter(evaluation.scores), '')
    header = ['method', *(TITLES[name] for name in evaluation.metrics), 'position bias']
    scores = []
    for method, row in evaluation.scores.items():
        bias = evaluation.position_bias[method]
        bias_text = '-' if bias != bias else f'{bias:.2f}'
        scores.append([method, *(str(row[name]) for name in evaluation.metrics), bias_text])
    number = len({row['image'] for row in evaluation.rows if row['method'] == first})
    labelled = evaluation.accuracy.number
    accuracy = f', accuracy {evaluation.accuracy} of {labelled} with a label' if labelled else ', none with a label'
    table = format_table(header, scores)
    sections = [f'Scores: mean and 95 % interval of {number} images{accuracy}\n{table}']
    if evaluation.uneven:
        uneven = ', '.join(f'{name.replace("_", " ")} {value:.3f}' for name, value in evaluation.uneven.items())
        sections.append(f'Classes are uneven: {uneven.replace("roc", "ROC")}')
    if evaluation.differences:
        rows = [[method, *map(str, row.values())] for method, row in evaluation.differences.items()]
        table = format_table(header[:-1], rows)
        sections.append(f'Paired differences to {first}: an interval that does not hold 0 tells them apart\n{table}')
    if evaluation.targets:
        sections.append(_target_table(evaluation, names))
    if evaluation.reliance:
        sections.append(_reliance_table(evaluation))
    sections.append(_remarks(evaluation, names))
    return '\n\n'.join(section for section in sections if section)


def _target_table(evaluation: Evaluation, names: Sequence[str]) -> str:
    """Return the scores of each task, of all methods."""
    header = ['task', 'method', 'objects', *(TITLES[name] for name in evaluation.metrics)]
    rows: list[list[str]] = []
    for target in next(iter(evaluation.targets.values())):
        for method, targets in evaluation.targets.items():
            row = targets.get(target, {})
            numbers = [interval.number for interval in row.values()]
            rows.append([names[target], method, str(max(numbers, default=0)), *map(str, row.values())])
    return f'Each task\n{format_table(header, rows)}'


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
    table = format_table(['map given instead of the predicted one', *(columns[name] for name in shown)], rows)
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
            score = evaluation.scores[method][metric].mean
            (line,) = axis.plot(fractions, mean, label=f'{method}  {score:.3f}', linewidth=1.6)
            axis.fill_between(fractions, low, high, alpha=0.18, color=line.get_color(), linewidth=0)
        better = 'lower' if metric == 'deletion' else 'higher'
        axis.set(title=f'{metric}: {better} is better', xlabel=f'share of the pixels after {metric}', xlim=(0, 1))
        axis.grid(alpha=0.25)
        axis.spines[['top', 'right']].set_visible(False)
        axis.legend(frameon=False, title='area under the curve', alignment='left')
    axes[0].set_ylabel('probability of the explained class')
    axes[0].set_ylim(bottom=0)
    with staged_file(path) as staged:
        figure.savefig(staged, dpi=150)
