"""Programs that look for faults with files, signals and moments drawn at random.

    python -m tests.fuzz SUBJECT --seed S (--seconds T | --count N) [--processes 2] [--keep DIR]

Subjects:

packed   mutations of packed files, checksums made right in most
foreign  mutations of torch files and of other libraries' safetensors files
kills    commands killed at random moments
changes  inputs truncated or overwritten while commands read them
places   tensors placed in buffers that end at a guarded page

Each prints how many cases it ran, their outcomes by flaw, the faults that it found with the
plainest case of each kind (saved with --keep), the longest case and the largest growth of memory.
The exit code is 1 where there are faults. A seed and a count give the same cases whatever the
number of processes; in `kills` and `changes` the moments are drawn, and the machine's load moves
them.
"""
