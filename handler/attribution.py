"""Attribution of caption tokens to grid cells: attention weights, or input × gradient."""

import math
from collections.abc import Sequence

import torch

from handler.modeling import Decoder
from handler.modeling.vocabulary import Vocabulary

GRADIENT_BATCH_SIZE = 8  # tokens per backward pass, which bounds its memory


def explanation_methods(decoder: Decoder) -> tuple[str, ...]:
    """Return the attribution methods of a decoder, the default first."""
    return ("attention", "gradient") if decoder.has_attention else ("gradient",)


def input_x_gradient(
    decoder: Decoder, grid: torch.Tensor, token_ids: Sequence[int], vocabulary: Vocabulary
) -> torch.Tensor:
    """Attribute each token to the grid cells by input × gradient (Shrikumar et al. 2016), computed by Captum.

    The gradient of a token's log-probability with respect to the grid is multiplied by the grid and summed over the
    channels of a cell. Negative sums, of cells that speak against the token, are set to 0.

    Args:
        decoder: Decoder in evaluation mode.
        grid: (cells, C).
        token_ids: Token ids of the caption, without `<start>` and `<end>`.
        vocabulary: Vocabulary of the decoder.

    Returns:
        (tokens, cells), each row sums to 1. If no cell has a positive sum, all have the same weight.
    """
    # Imported here as it takes 0.5 s and most requests do not need it. Captum has no type hints.
    from captum.attr import InputXGradient  # type: ignore[import-untyped]

    if not token_ids:
        return grid.new_zeros(0, len(grid))
    target_ids = torch.tensor(token_ids, device=grid.device)
    input_ids = torch.tensor([vocabulary.bos_id, *token_ids[:-1]], device=grid.device)

    def target_logprobs(grids: torch.Tensor) -> torch.Tensor:  # (n, cells, C) → (n, tokens)
        logits = decoder(grids, input_ids.expand(len(grids), 1, -1)).logits
        logprobs = logits.unflatten(0, (len(grids), -1)).float().log_softmax(-1)  # (n, tokens, V)
        targets: torch.Tensor = logprobs.gather(-1, target_ids.expand(len(grids), -1).unsqueeze(-1)).squeeze(-1)
        return targets

    attributions = []
    with torch.enable_grad(), torch.inference_mode(False):
        copy = grid.float().clone()  # tensors of inference mode have no gradient
        for indices in torch.split(torch.arange(len(target_ids), device=grid.device), GRADIENT_BATCH_SIZE):
            grids = copy.expand(len(indices), -1, -1).contiguous().requires_grad_()
            products = InputXGradient(target_logprobs).attribute(grids, target=indices)
            attributions.append(products.detach().sum(-1))
    weights = torch.cat(attributions).clamp(min=0)  # (tokens, cells)
    total = weights.sum(-1, keepdim=True)
    return torch.where(total > 0, weights / total.clamp(min=1e-30), 1 / weights.shape[-1])


def entropy(weights: torch.Tensor) -> torch.Tensor:
    """Compute the entropy of attributions.

    Args:
        weights: (tokens, rows, columns), sums to 1 for each token.

    Returns:
        (tokens,), in bits: 0 if one cell has all the weight, log2(cells) if all have the same.
    """
    return -torch.xlogy(weights, weights).sum((-2, -1)) / math.log(2)
