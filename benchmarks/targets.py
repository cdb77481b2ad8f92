"""What the benchmarks are held against."""

# (model, data set, device, loop, compared with) -> least ratio of samples per second
THROUGHPUT = {
    ("mlp", "mnist", "cpu", "step 1", "bare"): 0.95,
    ("mlp", "mnist", "cpu", "step 2", "bare"): 1.6,
    ("mlp", "mnist", "cpu", "step 1", "conventional"): 2.3,
    **{
        (model, "cifar10", device, step, "bare"): ratio
        for model, device, ratio in (("vgg", "cpu", 0.95), ("resnet56", "cpu", 0.95), ("vgg", "cuda", 0.9))
        for step in ("step 1", "step 2")
    },
}

# (model, data set, device) -> least number of training steps per second in step 1
STEPS_PER_SECOND = {("mlp", "mnist", "cuda"): 20_000}

START_UP = 1.5  # at most so many times importing torch and reading the data
LAST_EPOCH = 1.1  # a step in the last epoch takes at most so many times one in the first
ROUND_OVERHEAD = 0.03  # at most this share of a round is neither training nor evaluation
MEMORY = 1.5 * 2**30  # bytes above the data that a VGG run on the CPU may take at most
SELECTION_SECONDS = 1.0  # selecting among 14 million weights on the CPU takes less
WHOLE_RUN_MINUTES = 20  # the paper's first command, 50 rounds, on one H200
TWO_AT_ONCE = 0.65  # two short runs at once take at most this share of one after the other, on 2 cores
BESIDE_BUSY = 1.3  # a run beside a process that keeps a core busy takes at most so many times its time alone
