"""Deep Partial Updating. This is the map of the code.

The algorithm, in reading order:

    modes.py             every method by its name: where a round starts, how it scores weights, what it sends
    rounds.py            the loop: start point, training, what is sent, what the edge node serves
    methods.py           one round by DPU and its variants, by random updating, by full updating
    contribution.py      the scores of weights, the selection of the largest, rewinding
    pruning_scores.py    those of the literature on pruning; criterion.py: those of users, from files of theirs
    training/round.py    one round's training; training/loop.py: one epoch, and evaluation

What they stand on: reinit.py (when a round starts again), rewinding.py (how many weights stay selected), flat.py (the
network as one vector), schema.py (the layout of that vector, which server and edge node share), link.py (the server's
end of the link), own_network.py (networks of users).

    training/   how a network trains               run/      from a command line to a finished run folder
    message/    what crosses the link              table/    from run folders to tables and plots
    edge/       who receives it                    system/   files, processes, terminal; knows nothing of DPU

predict.py answers with the network that a node serves, for `python -m utils.edge predict`.

Imports run one way: scripts and table -> run -> rounds -> methods, link -> training -> contribution, flat -> schema;
link -> edge -> message -> schema. `data` and `models` import system alone, system nothing of the project, and nobody
imports a script or a table. message, edge, schema, modes, reinit, rewinding, and in run flags, options and checks do
without torch. tests/test_imports.py holds these rules.
"""
