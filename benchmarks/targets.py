"""What the benchmarks are held against."""

# (model, device, loop, compared with) -> least ratio of samples per second
THROUGHPUT = {
    ("mlp", "cpu", "step 1", "bare"): 0.85,
    ("mlp", "cpu", "step 2", "bare"): 1.1,
    ("mlp", "cpu", "step 1", "conventional"): 3.5,
    ("mlp", "cpu", "step 2", "conventional"): 3.5,
    ("vgg", "cpu", "step 1", "bare"): 0.95,
    ("vgg", "cpu", "step 2", "bare"): 0.95,
    ("resnet56", "cpu", "step 1", "bare"): 0.95,
    ("resnet56", "cpu", "step 2", "bare"): 0.95,
}
