"""Artifacts through the Python caller: compile each example, load it with ctypes, compare with onnxruntime.

    cargo xtask ci --only python

or by hand, with `RSQC_BIN` naming the compiler (default: the dev build of this repository):

    RSQC_BIN=target/debug/rsqc python3 -m unittest discover -s tests/py -v

Needs numpy; the comparisons with onnxruntime are left out, and reported as skipped, where it is not installed.
"""

import functools
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import numpy as np

try:
    import onnxruntime
except ImportError:
    onnxruntime = None

ROOT = pathlib.Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits"
CALLER = ROOT / "examples" / "python" / "run_model.py"
RSQC = os.environ.get("RSQC_BIN", str(ROOT / "target" / "debug" / "rsqc"))
sys.path.insert(0, str(CALLER.parent))
from run_model import Model, ModelError  # noqa: E402

# Top-1 of the float models on the held-out digits, as examples/digits/README.md has it.
MODELS = {"vit": 0.988, "cnn": 0.996, "mlp": 0.992}
SCHEMES = ["none", "w8a8"]
ARTIFACTS = {}


def setUpModule():
    """Compiles every model under every scheme once."""
    folder = tempfile.TemporaryDirectory()
    unittest.addModuleCleanup(folder.cleanup)
    for name in MODELS:
        for scheme in SCHEMES:
            path = os.path.join(folder.name, f"{name}-{scheme}.so")
            command = [RSQC, "compile", str(DIGITS / f"{name}.onnx"), "--scheme", scheme, "-o", path]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)}\nexit status {done.returncode}\n{done.stderr}")
            ARTIFACTS[name, scheme] = path


def held_out():
    data = np.load(DIGITS / "eval.npz")
    return data["image"], data["labels"]


def each(test):
    """Runs a test once for every artifact, as sub-tests; it gets the model's name and the artifact's path."""

    @functools.wraps(test)
    def run(self):
        for (name, scheme), path in ARTIFACTS.items():
            with self.subTest(model=name, scheme=scheme):
                test(self, name, path)

    return run


class Artifacts(unittest.TestCase):
    @each
    def test_describes_itself(self, name, path):
        model = Model(path)
        ((io, dtype, dims, texts),) = model.inputs
        self.assertEqual((io, dtype, dims[1:], texts), ("image", 0, [1, 8, 8], ["batch", "1", "8", "8"]))
        ((io, dtype, dims, texts),) = model.outputs
        self.assertEqual((io, dtype, dims[1:], texts), ("logits", 0, [10], ["batch", "10"]))
        self.assertEqual([symbol for symbol, _, _ in model.symbols], ["batch"])

    @each
    def test_reads_digits(self, name, path):
        image, labels = held_out()
        (logits,) = Model(path).run([image])
        right = float((logits.argmax(axis=1) == labels).mean())
        # 500 images: five of them may be lost.
        self.assertGreaterEqual(right, MODELS[name] - 0.0101)

    @each
    def test_batches_agree(self, name, path):
        image, _ = held_out()
        model = Model(path)
        (whole,) = model.run([image[:37]])
        for size in (1, 2, 5, 17):
            (part,) = model.run([image[:size]])
            self.assertEqual(part.shape, (size, 10))
            np.testing.assert_allclose(part, whole[:size], rtol=1e-4, atol=1e-4)
        self.assertEqual(model.run([image[:0]])[0].shape, (0, 10))
        np.testing.assert_array_equal(model.run({"image": image[:37]})[0], whole)

    @each
    def test_threads_give_identical_bits(self, name, path):
        image, _ = held_out()
        one, many = Model(path, threads=1), Model(path, threads=3)
        self.assertEqual(one.run([image])[0].tobytes(), many.run([image])[0].tobytes())

    def test_models_share_a_process(self):
        image, _ = held_out()
        alone = {key: Model(path).run([image[:4]])[0] for key, path in ARTIFACTS.items()}
        open_models = {key: Model(path) for key, path in ARTIFACTS.items()}
        for _ in range(2):
            for key, model in open_models.items():
                np.testing.assert_array_equal(model.run([image[:4]])[0], alone[key])

    @each
    def test_wrong_shapes_are_refused_by_name(self, name, path):
        model = Model(path)
        for shape in [(2, 1, 8, 9), (2, 3, 8, 8), (2, 8, 8), (64,)]:
            with self.assertRaisesRegex(ModelError, "image"):
                model.run([np.zeros(shape, np.float32)])
        with self.assertRaises(ModelError):
            model.run([])
        # The session is still good.
        self.assertEqual(model.run([np.zeros((1, 1, 8, 8), np.float32)])[0].shape, (1, 10))

    @each
    def test_levels_agree(self, name, path):
        """Every level that this machine has gives results as close as float sums allow; portable is always there."""
        code = (
            "import sys, numpy as np; sys.path.insert(0, sys.argv[1]); from run_model import Model\n"
            "model = Model(sys.argv[2], threads=1); image = np.load(sys.argv[3])['image'][:40]\n"
            "print(model.level); print(' '.join(float(x).hex() for x in model.run([image])[0].ravel()))"
        )
        seen = {}
        for level in ("portable", "avx2", "avxvnni", "avx512vnni"):
            command = [sys.executable, "-B", "-c", code, str(CALLER.parent), path, str(DIGITS / "eval.npz")]
            environment = dict(os.environ, RSQC_CPU_LEVEL=level)
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode == 0:
                used, values = done.stdout.splitlines()
                self.assertEqual(used, level)
                seen[level] = np.array([float.fromhex(x) for x in values.split()]).reshape(-1, 10)
            else:
                # Not on this machine: refused with a reason, not by a signal.
                self.assertIn("ModelError", done.stderr)
                self.assertIn(level, done.stderr)
        self.assertIn("portable", seen)
        for logits in seen.values():
            self.assertGreaterEqual(snr(seen["portable"], logits), 30.0)
            np.testing.assert_array_equal(logits.argmax(axis=1), seen["portable"].argmax(axis=1))

    @each
    def test_the_program_runs(self, name, path):
        command = [sys.executable, "-B", str(CALLER), path, "batch=3"]
        done = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"result 0: \[3, 10\] checksum [0-9a-f]{16}")


def snr(reference, found):
    """Signal to noise in dB; infinite for equal arrays."""
    noise = float(((reference - found) ** 2).sum())
    return np.inf if noise == 0 else 10 * np.log10(float((reference**2).sum()) / noise)


@unittest.skipUnless(onnxruntime, "onnxruntime is not installed")
class AgainstOnnxruntime(unittest.TestCase):
    def both(self, name, scheme):
        image, _ = held_out()
        session = onnxruntime.InferenceSession(str(DIGITS / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        (reference,) = session.run(None, {"image": image})
        (found,) = Model(ARTIFACTS[name, scheme]).run([image])
        return reference, found

    def test_float_is_float(self):
        for name in MODELS:
            with self.subTest(model=name):
                reference, found = self.both(name, "none")
                np.testing.assert_allclose(found, reference, rtol=1e-4, atol=1e-4)

    def test_eight_bits_stay_close(self):
        for name in MODELS:
            with self.subTest(model=name):
                reference, found = self.both(name, "w8a8")
                self.assertGreaterEqual(snr(reference, found), 25.0)
                agreement = float((reference.argmax(axis=1) == found.argmax(axis=1)).mean())
                self.assertGreaterEqual(agreement, 0.99)
                # Equal results would mean that nothing was quantized.
                self.assertLess(snr(reference, found), 90.0)


if __name__ == "__main__":
    unittest.main()
