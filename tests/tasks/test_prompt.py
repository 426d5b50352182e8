"""Few-shot prompts and tuned prompt vectors."""

import torch

from chargaff.hub.load import create
from chargaff.tasks.prompt import SoftPrompt, few_shot_prompt, label_positions

LAYER = {"l_max": 130, "emb_dim": 5, "filter_order": 8, "w": 10}
CONFIG = {"d_model": 16, "n_layer": 1, "d_inner": 32, "pad_vocab_size_multiple": 8, "layer": LAYER}


def test_a_prompt_shows_demonstrations_and_ends_before_the_answer():
    shown = [(torch.tensor([7, 8]), 7), (torch.tensor([9, 9, 9, 9, 9, 10]), 11)]
    prompt = few_shot_prompt(shown, torch.tensor([10]), max_length=4, pad_id=4, sep_id=1)
    assert prompt.tolist() == [4, 4, 7, 8, 1, 7, 1, 9, 9, 9, 9, 1, 11, 1, 4, 4, 4, 10, 1]
    places = label_positions(len(prompt) + 1, 4)
    assert torch.cat([prompt, torch.tensor([7])])[places].tolist() == [7, 11, 7]


def test_only_the_prompt_vectors_learn():
    model = create("hyenadna", CONFIG, seed=1).eval().requires_grad_(False)
    torch.manual_seed(0)
    prompt = SoftPrompt(3, 16, dropout=0.0)
    tokens = few_shot_prompt([], torch.randint(7, 11, (6,)), max_length=6, pad_id=4, sep_id=1).unsqueeze(0)
    optimizer = torch.optim.AdamW(prompt.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        loss, _ = prompt.loss(model, tokens, torch.tensor([[11]]), 6)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert prompt.eval()(model, tokens).shape == (1, 16)
