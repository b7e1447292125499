"""Caption generation: greedy search, beam search and sampling."""

from handler.generation.beam_search import generate
from handler.generation.hypotheses import Hypothesis
from handler.generation.options import GENERATION_OPTIONS, GenerationConfig, GenerationOption

__all__ = ["GENERATION_OPTIONS", "GenerationConfig", "GenerationOption", "Hypothesis", "generate"]
