"""Caption generation: greedy search, beam search and sampling."""

from handler.generation.beam_search import Hypothesis, generate
from handler.generation.options import GENERATION_OPTIONS, GenerationConfig, GenerationOption

__all__ = ["GENERATION_OPTIONS", "GenerationConfig", "GenerationOption", "Hypothesis", "generate"]
