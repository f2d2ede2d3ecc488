"""Scores of several explanations of one model, over a data set: faithfulness, localisation, reliance, position bias."""

from .results import Evaluation, join_evaluations
from .running import evaluate, weights_fingerprint

__all__ = ['Evaluation', 'evaluate', 'join_evaluations', 'weights_fingerprint']
