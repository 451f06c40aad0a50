"""Benchmark of attention over packed sequences on a processor, which shows why `sdpa` computes them in groups.

    python experiments/benchmarks/packed_attention.py [--repeats N] [--json FILE]

The contenders get the same packed query, key and value. `one_by_one` is our `sdpa`: it computes groups of neighbours
of similar length, with gradients step by step. `padded` pads all sequences for PyTorch's attention. `eager` pads them
and computes attention step by step. Each runs forward and backward, in turn. The figures are medians and
interquartile ranges of the ratio to `one_by_one`.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measuring import write_json
from torch import Tensor

from bert_lightning.model.layers.attention import Layout, eager, sdpa
from bert_lightning.model.layers.packing import Packing, packing_of, pad

SHAPES = ((64, 32, 256, 4), (128, 32, 256, 4), (128, 32, 768, 12), (512, 8, 768, 12))


def padded(query_key_value: Tensor, packing: Packing, num_heads: int, dropout: float) -> Tensor:
    """Compute PyTorch's attention on a padded copy."""
    wide, positions = pad(query_key_value, packing)
    mask = (torch.arange(packing.max_length) < packing.lengths[:, None])[:, None, None, :]
    query, key, value = wide.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
    context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return context.transpose(1, 2).flatten(2).flatten(0, 1)[positions]


CONTENDERS = {
    "one_by_one": lambda x, packing, heads, dropout: sdpa(x, Layout(packing=packing), heads, dropout).context,
    "padded": padded,
    "eager": lambda x, packing, heads, dropout: eager(x, Layout(packing=packing), heads, dropout).context,
}


def measure(
    length: int, num_sequences: int, hidden: int, num_heads: int, dropout: float, repeats: int
) -> dict[str, Any]:
    """Measure each contender, forward and backward, on lengths drawn evenly from length / 8 to length."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(length // 8, length + 1, (num_sequences,), generator=generator)
    packing = packing_of(lengths)
    query_key_value = torch.randn(int(lengths.sum()), 3 * hidden, requires_grad=True)
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for repeat in range(repeats + 2):
        for name, contender in CONTENDERS.items():
            started = time.perf_counter()
            contender(query_key_value, packing, num_heads, dropout).sum().backward()
            if repeat > 1:
                times[name].append(1e3 * (time.perf_counter() - started))
    ratios = {name: [a / b for a, b in zip(t, times["one_by_one"], strict=True)] for name, t in times.items()}
    quartiles = {name: statistics.quantiles(values, n=4) for name, values in ratios.items()}
    return {
        "length": length,
        "num_sequences": num_sequences,
        "hidden_size": hidden,
        "dropout": dropout,
        "share_of_real_tokens": round(float(lengths.sum()) / (num_sequences * int(lengths.max())), 3),
        "milliseconds": {name: round(statistics.median(values), 2) for name, values in times.items()},
        "ratios": {name: round(q[1], 2) for name, q in quartiles.items()},
        "spread": {name: round(q[2] - q[0], 2) for name, q in quartiles.items()},
    }


def main() -> None:
    """Measure all shapes, print a table, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(f"{'length':>6} {'B':>3} {'H':>4} {'dropout':>7} {'real':>5}   over one_by_one (interquartile range)")
    rows = []
    for shape in SHAPES:
        for dropout in (0.0, 0.1):
            row = measure(*shape, dropout, options.repeats)
            rows.append(row)
            cells = "  ".join(f"{n} {row['ratios'][n]:.2f} ({row['spread'][n]:.2f})" for n in ("padded", "eager"))
            print(
                f"{row['length']:>6} {row['num_sequences']:>3} {row['hidden_size']:>4} {dropout:>7} "
                f"{row['share_of_real_tokens']:>5.0%}   {cells}   [{row['milliseconds']['one_by_one']} ms]"
            )
    ratios = {
        f"{name}, {row['num_sequences']} x {row['length']} H{row['hidden_size']}, dropout {row['dropout']}": ratio
        for row in rows
        for name, ratio in row["ratios"].items()
        if name != "one_by_one"
    }
    write_json(options.json, {"rows": rows, "ratios": ratios})


if __name__ == "__main__":
    main()
