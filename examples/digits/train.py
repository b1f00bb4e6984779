#!/usr/bin/env python3
"""Trains the three example models on scikit-learn's digits and exports them to ONNX.

    pip install torch onnx scikit-learn numpy
    python train.py [vit] [cnn] [mlp]      # no name: all three, about two minutes on two cores

Writes NAME.onnx, calib.npz and eval.npz beside this file. The split is fixed: a permutation drawn with
seed 0; the first 1297 images are for training, the last 500 are held out and never seen by training,
by calibration or by the choice of anything here.
"""

import os
import sys

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

HERE = os.path.dirname(os.path.abspath(__file__))
TRAIN = 1297
CALIB = 256


class Attention(nn.Module):
    """Multi-head self-attention with one merged projection, as vision transformers have it."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        weights = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a GELU (erf) MLP, each with its residual."""

    def __init__(self, width, heads, hidden):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Vit(nn.Module):
    """Vision transformer: 16 patches of 2 x 2 pixels and a class token, 3 blocks of width 64."""

    def __init__(self, width=64, heads=4, hidden=128, depth=3):
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, stride=2)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.pos = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        self.blocks = nn.Sequential(*[Block(width, heads, hidden) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, image):
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls.expand(x.shape[0], -1, -1), x), dim=1) + self.pos
        return self.head(self.norm(self.blocks(x))[:, 0])


def conv_bn_relu(cin, cout):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1, bias=False), nn.BatchNorm2d(cout), nn.ReLU())


class Cnn(nn.Module):
    """Four convolutions with batch norm, one residual add, max and average pooling."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(conv_bn_relu(1, 16), conv_bn_relu(16, 32))
        self.inner = conv_bn_relu(32, 32)
        self.outer = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32))
        self.head = nn.Linear(32, 10)

    def forward(self, image):
        x = F.max_pool2d(self.stem(image), 2)
        x = F.relu(x + self.outer(self.inner(x)))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Mlp(nn.Module):
    """64 pixels, two hidden layers of 64 and 32."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
        )

    def forward(self, image):
        return self.layers(image)


# Name -> class, epochs, learning rate, pixels of random shift (the MLP is too small to learn shifts as well).
MODELS = {"vit": (Vit, 160, 2e-3, 1), "cnn": (Cnn, 80, 3e-3, 1), "mlp": (Mlp, 160, 3e-3, 0)}


def load():
    """Images in 0..1 as float32 [n, 1, 8, 8] and labels int64 [n], permuted with seed 0."""
    digits = load_digits()
    order = np.random.RandomState(0).permutation(len(digits.images))
    images = (digits.images[order] / 16.0).astype(np.float32)[:, None]
    return images, digits.target[order].astype(np.int64)


def shifted(x, reach):
    """Each image of the batch moved by up to `reach` pixels in both directions, with a little noise."""
    padded = F.pad(x, (reach, reach, reach, reach))
    dy, dx = torch.randint(0, 2 * reach + 1, (2, len(x)))
    moved = torch.stack([padded[i, :, a : a + 8, b : b + 8] for i, (a, b) in enumerate(zip(dy, dx))])
    return moved + 0.03 * torch.randn_like(moved)


def train(make, epochs, rate, reach, images, labels):
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    steps = (len(images) + 63) // 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * steps)
    model.train()
    for _ in range(epochs):
        for pick in torch.randperm(len(images)).split(64):
            loss = F.cross_entropy(model(shifted(images[pick], reach)), labels[pick], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def export(model, path):
    """Opset 17 through the TorchScript exporter; batch norms stay separate nodes, as many exporters leave them."""
    torch.onnx.export(
        model,
        (torch.zeros(2, 1, 8, 8),),
        path,
        dynamo=False,
        opset_version=17,
        training=torch.onnx.TrainingMode.PRESERVE,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )


def main(names):
    torch.set_num_threads(1)
    images, labels = load()
    np.savez_compressed(os.path.join(HERE, "calib.npz"), image=images[:CALIB])
    np.savez_compressed(os.path.join(HERE, "eval.npz"), image=images[TRAIN:], labels=labels[TRAIN:])
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    for name in names or list(MODELS):
        model = train(*MODELS[name], x[:TRAIN], y[:TRAIN])
        with torch.no_grad():
            right = (model(x[TRAIN:]).argmax(1) == y[TRAIN:]).float().mean().item()
        path = os.path.join(HERE, name + ".onnx")
        export(model, path)
        print(f"{name}: top-1 {right:.4f} on {len(x) - TRAIN} held-out images, {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
