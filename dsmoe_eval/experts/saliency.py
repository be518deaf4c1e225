"""Token saliency, Eq. 5 of the DSMoE paper (arXiv 2604.05267)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .backward import BackwardPass
from .batching import batches, entrance, pad, token_budget
from .documents import Document


class Saliency(BackwardPass):
    """The token saliency of a causal language model; one object serves many batches."""

    def of_documents(self, documents: Sequence[Document]) -> Tensor:
        """Compute the saliency of the documents' tokens, in their order: [tokens], on the CPU."""
        device = entrance(self.model)
        rows: dict[int, Tensor] = {}
        for batch in batches(documents, self.budget(token_budget(device), documents)):
            ids, mask = pad([documents[index].tokens for index in batch], device)
            values = self(ids, mask).cpu()
            rows |= {
                i: row[: len(documents[i].tokens)] for i, row in zip(batch, values, strict=True)
            }
        return torch.cat([rows[index] for index in range(len(documents))])

    def __call__(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Compute Eq. 5, r_i = ||e_i * dL/de_i||_2 with e_i the token's input embedding.

        L is the mean next-token loss of each text separately, so that batching does not change a
        text's saliency. The last token of a text predicts nothing and has saliency 0.

        Args:
            input_ids: [batch, length], right-padded.
            mask: [batch, length], 1 on tokens.

        Returns:
            [batch, length] float32, 0 on padding.
        """
        embeddings = self.model.get_input_embeddings()(input_ids).detach().requires_grad_()
        share = mask[:, 1:].float()
        share = share / share.sum(1, keepdim=True)
        with self.within_memory(input_ids):
            ends, head = self.ends(embeddings)
            gradient = self.gradient(ends, head, input_ids, share)
            (gradient,) = torch.autograd.grad(ends, embeddings, gradient)
        saliency: Tensor = (embeddings.detach().float() * gradient.float()).norm(dim=-1) * mask
        return saliency
