"""`Kept.share`: how much of each prompt token is left."""

import torch

from draft_approx_llm.method import Kept


def test_all_is_kept_where_nothing_was_chosen():
    assert Kept().share(3, 2).tolist() == [[1, 1, 1], [1, 1, 1]]


def test_a_shortened_prompt_is_kept_by_all_layers_alike():
    assert Kept(prompt=torch.tensor([0, 3])).share(4, 2).tolist() == [[1, 0, 0, 1], [1, 0, 0, 1]]


def test_heads_are_counted_layer_by_layer_and_the_last_token_is_there():
    even = torch.tensor([[0, 1], [1, 2]])
    uneven = [torch.tensor([2]), torch.tensor([], dtype=torch.long)]
    shares = Kept(prompt=torch.tensor([0, 1, 2, 4]), cache=[even, uneven]).share(5, 2)
    assert shares.tolist() == [[0.5, 1, 0.5, 0, 1], [0, 0, 0.5, 0, 1]]
