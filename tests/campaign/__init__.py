"""A fault campaign: damaged files, kills, full disks, failing writes and much work for the real readers and commands.

    python -m tests.campaign --part readers --count 2000 --seed 0

What is promised, and what a campaign of every part found, is in docs/reliability.md.
"""
