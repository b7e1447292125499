"""What each word of a caption rests on in the picture: the decoder's attention, or where it has none, gradients."""

from collections.abc import Sequence

import torch

from handler.modeling import Decoder
from handler.modeling.vocabulary import Vocabulary

TOGETHER = 8  # words whose gradients are in memory at once


def methods(decoder: Decoder) -> tuple[str, ...]:
    """The ways to explain a decoder's words, the one taken by default first."""
    return ("attention", "gradient") if decoder.has_attention else ("gradient",)


def input_x_gradient(
    decoder: Decoder, grid: torch.Tensor, token_ids: Sequence[int], vocabulary: Vocabulary
) -> torch.Tensor:
    """How much each cell speaks for each word: gradient × input (Shrikumar et al. 2016), by Captum.

    Of the log-probability of each word, given those before it, the gradient by the grid is multiplied with the grid
    and summed up over a cell's channels. Cells that speak against the word count as 0.

    Args:
        decoder: in evaluation mode.
        grid: (cells, C).
        token_ids: the caption's words, without `<start>` and `<end>`.
        vocabulary: the decoder's.

    Returns:
        (words, cells), each row sums to 1; where no cell speaks for a word all have the same weight.
    """
    from captum.attr import InputXGradient  # takes half a second, and most requests have no use for it

    if not token_ids:
        return grid.new_zeros(0, len(grid))
    words = torch.tensor(token_ids, device=grid.device)
    before = torch.tensor([vocabulary.bos_id, *token_ids[:-1]], device=grid.device)

    def logprobs(grids: torch.Tensor) -> torch.Tensor:  # (words, cells, C) → (words, words)
        tokens = before.expand(len(grids), 1, -1)
        logits = decoder(grids, tokens).logits.unflatten(0, (len(grids), -1))  # (words, words, V)
        chosen = words.expand(len(grids), -1).unsqueeze(-1)
        return logits.float().log_softmax(-1).gather(-1, chosen).squeeze(-1)

    sums = []
    with torch.enable_grad(), torch.inference_mode(False):
        alone = grid.float().clone()
        for places in torch.arange(len(words), device=grid.device).split(TOGETHER):
            grids = alone.expand(len(places), -1, -1).contiguous().requires_grad_()
            sums.append(InputXGradient(logprobs).attribute(grids, target=places).detach().sum(-1))
    weights = torch.cat(sums).clamp(min=0)  # (words, cells)
    total = weights.sum(-1, keepdim=True)
    return torch.where(total > 0, weights / total.clamp(min=1e-30), 1 / weights.shape[-1])


def entropy(weights: torch.Tensor) -> torch.Tensor:
    """Entropy of weights (tokens, rows, columns), in bits: 0 if one cell has all, log2(cells) if all have the same."""
    return -torch.xlogy(weights, weights).sum((-2, -1)) / torch.log(torch.tensor(2.0))
