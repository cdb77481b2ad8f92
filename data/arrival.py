"""Data arrival: which training samples the server holds in each round.

One permutation of the training set, drawn from its own generator, orders the samples; a round holds a prefix.
Nothing that training does can change it, so runs with the same seed and sizes can be compared pair by pair.
"""

import hashlib

import torch

from data.seeding import frozen_generator


class Arrival:
    """The samples of every round.

    Round r holds the first n_r = min(N, size_init + r * size_subseq) of one permutation of all N.
    `num_rounds` is ceil((N - size_init) / size_subseq) + 1, so the last round holds all N training samples.
    Raises ValueError if `num_train` is below 1 or a size is below 1 or above `num_train`.
    """

    def __init__(self, num_train: int, size_init: int, size_subseq: int, seed: int) -> None:
        if num_train < 1:
            raise ValueError(f"{num_train} training samples: at least 1 is needed")
        for name, size in (("first round's", size_init), ("later rounds'", size_subseq)):
            if not 1 <= size <= num_train:
                allowed = f"must be 1 to {num_train}, the number of training samples"
                raise ValueError(f"the {name} number of new samples is {size}: {allowed}")
        self.num_train = num_train
        self.size_init = size_init
        self.size_subseq = size_subseq
        self.num_rounds = -(-(num_train - size_init) // size_subseq) + 1
        self._order = frozen_generator(seed, "data arrival").permutation(num_train)

    def num_samples(self, round_index: int) -> int:
        """Return n_r, the number of samples held in a round. Raises ValueError outside the rounds."""
        if not 0 <= round_index < self.num_rounds:
            raise ValueError(f"round {round_index}: must be 0 to {self.num_rounds - 1}")
        return min(self.num_train, self.size_init + round_index * self.size_subseq)

    def samples(self, round_index: int) -> torch.Tensor:
        """Return the training set's indices held in a round, int64 (n_r,), in order of arrival.

        Raises ValueError outside the rounds.
        """
        return torch.from_numpy(self._order[: self.num_samples(round_index)].astype("int64"))

    @property
    def fingerprint(self) -> str:
        """BLAKE2b (16 bytes, hex) over the sizes and the permutation: equal if and only if all rounds are."""
        sizes = f"{self.num_train} {self.size_init} {self.size_subseq}\n"
        digest = hashlib.blake2b(sizes.encode(), digest_size=16)
        digest.update(self._order.astype("<i8"))
        return digest.hexdigest()
