"""``python -m benchmarks`` and what to measure; the Makefile has a target for the first three."""

from __future__ import annotations

import argparse
import os
import tempfile

from benchmarks import contestants, marks


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("quick", help="us beside stock SAQ, within a minute")
    full = commands.add_parser("full", help="every row, beside every library that is installed")
    full.add_argument("--repetitions", type=int, default=3, help="default: 3")
    full.add_argument("--only", nargs="+", choices=contestants.NAMES, help="measure these beside stock SAQ")
    full.add_argument("--write", action="store_true", help="also write benchmarks/results.md")
    commands.add_parser("peers", help="install the other libraries, each into an environment of its own")
    commands.add_parser("postgres", help="us beside stock SAQ and procrastinate, on Postgres")
    commands.add_parser("listings", help="what an operator's questions cost in a long queue")
    commands.add_parser("dashboard", help="how long the server takes for each page, in a long queue of a busy day")
    commands.add_parser("history", help="draining with every job recorded in a database, beside draining without")
    profile = commands.add_parser("profile", help="what one job of ours costs, in CPU time")
    profile.add_argument("--jobs", type=int, default=20_000, help="default: 20,000")
    profile.add_argument("--rounds", type=int, default=5, help="default: 5")
    profile.add_argument("--functions", type=int, default=0, help="also show so many functions; default: none")
    commands.add_parser("schedules", help="how late schedules fire, and what they cost while none is due")
    options = parser.parse_args()
    with tempfile.NamedTemporaryFile(prefix="benchmark-marks-") as file:
        file.truncate(marks.SIZE)
        os.environ[marks.VARIABLE] = file.name
        if options.command == "quick":
            from benchmarks import quick

            quick.main()
        elif options.command == "full":
            from benchmarks import full as every_row

            every_row.main(repetitions=options.repetitions, only=options.only, write=options.write)
        elif options.command == "postgres":
            from benchmarks import postgres

            postgres.main()
        elif options.command == "listings":
            from benchmarks import listings

            listings.main()
        elif options.command == "dashboard":
            from benchmarks import dashboard

            dashboard.main()
        elif options.command == "history":
            from benchmarks import history

            history.main()
        elif options.command == "profile":
            from benchmarks import profiling

            profiling.main(jobs=options.jobs, rounds=options.rounds, functions=options.functions)
        elif options.command == "schedules":
            from benchmarks import schedules

            schedules.main()
        else:
            from benchmarks import peers

            peers.main()


if __name__ == "__main__":
    main()
