# Linear algebra, transforms, random numbers and memory-mapped files of numpy, rounded so that the order of sums does not matter.
import numpy as np

rng = np.random.default_rng(7)
a = rng.standard_normal((120, 120))
b = a @ a.T + np.eye(120) * 120
print(np.allclose(b @ np.linalg.inv(b), np.eye(120)))
print(np.round(np.linalg.slogdet(b), 6))
print(np.round(np.linalg.eigvalsh(b)[:5], 6))
print(np.round(np.linalg.svd(a, compute_uv=False)[:5], 6))
print(np.round(np.linalg.solve(b, a[0])[:5], 9))
print(np.round(np.abs(np.fft.fft(a[0]))[:5], 6))
print(rng.integers(0, 1 << 40, 5), np.sort(a[1])[:3].round(9))
m = np.memmap("/tmp/numbers", dtype="int64", mode="w+", shape=(1000, 1000))
m[:] = np.arange(1_000_000).reshape(1000, 1000)
m.flush()
print("kept" if np.memmap("/tmp/numbers", dtype="int64", mode="r").sum() == 499999500000 else "lost", np.__version__)
