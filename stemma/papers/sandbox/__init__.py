"""Where code runs that nobody here wrote: without a network or the host's files, within limits, killed as a whole.

`levels` says what this machine allows and which level is in force, `started` starts a program at a level. The rest runs
in the keeper, a process beside each sandbox that imports nothing but the standard library: it confines the program
(`bubblewrap`, or `landlock` with `seccomp`), watches its limits (`cgroups`, `trees`), and ends it with everything that
it started, also when the process that asked for it was killed.
"""
