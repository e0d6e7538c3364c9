"""``consilium-center``: the coordinating center's command."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.commands import center, compare, export, provision, run, watching
from shared_model.command_line import errors_to_exit_codes

if TYPE_CHECKING:
    from rich.console import Console

    from server.launch import Extent, Simulation
    from server.records import RunRecord

app = typer.Typer(
    help="Run federated studies and report on them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class EngineName(StrEnum):
    """What carries the messages of a simulation."""

    in_process = "in-process"
    flower = "flower"
    ray = "ray"


Out = Annotated[Path, typer.Option(help="The run directory; given again, it resumes.")]
Rounds = Annotated[int | None, typer.Option(min=1, help="Rounds, instead of the study's own number.")]
Epsilon = Annotated[
    float | None, typer.Option(help="Differential privacy's epsilon, instead of the study's own; inf: without.", min=0.0)
]
PretrainedFile = Annotated[
    Path | None,
    typer.Option(help="Weights that pictures begin with: an encoder's safetensors, or models/best.safetensors of a run."),
]
Seed = Annotated[int, typer.Option(min=0, help="Every random draw follows from it.")]
Engine = Annotated[EngineName, typer.Option(help="in-process: here; flower: real SuperLink and SuperNodes on loopback; ray.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads a site may use; all by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    sites: Annotated[int, typer.Option(min=2, max=4, help="How many of the four synthetic hospitals take part.")] = 4,
    patients: Annotated[int, typer.Option(min=40, help="Patients of each hospital.")] = 200,
    rounds: Rounds = None,
    seed: Seed = 0,
) -> None:
    """Four synthetic hospitals train together; ends with a report.

    Example: consilium-center demo --out runs/demo
    """
    with errors_to_exit_codes():
        from rich.console import Console

        from server.baselines import DEMO_ARMS
        from server.launch import Extent, prepare
        from server.simulation import DEMO_STUDY, demo_hospitals

        console = Console()
        site_files = demo_hospitals(out / "hospitals", count=sites, patients=patients, seed=seed)
        console.print(f"{len(site_files)} synthetic hospitals of {patients} patients each are in {out / 'hospitals'}")
        simulation = prepare(DEMO_STUDY, site_files, out=out, seed=seed, rounds=rounds)
        _conclude(simulation, console, Extent(DEMO_ARMS))


@app.command()
def simulate(
    study: Annotated[Path, typer.Argument(help="The study protocol, study.toml.")],
    sites: Annotated[list[Path], typer.Argument(help="A site.toml for each hospital.")],
    out: Out,
    rounds: Rounds = None,
    epsilon: Epsilon = None,
    pretrained: PretrainedFile = None,
    seed: Seed = 0,
    engine: Engine = EngineName.in_process,
    threads: Threads = None,
    with_baselines: Annotated[
        bool, typer.Option("--with-baselines", help="Also train the other arms: each site alone, all in one place ...")
    ] = False,
    leave_one_site_out: Annotated[
        bool, typer.Option("--leave-one-site-out", help="Also a study without each site, tested on that site's patients.")
    ] = False,
    folds: Annotated[
        int | None, typer.Option(min=2, max=20, help="Also a cross-validation over patients, with the same arms in each fold.")
    ] = None,
    external: Annotated[
        list[Path] | None, typer.Option(help="A site.toml that takes no part in training and is only evaluated; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a whole study with all sites on this machine; the same command resumes an interrupted run.

    Example: consilium-center simulate site_configs/heart/study.toml site_configs/heart/[!s]*.toml --out runs/heart
    """
    with errors_to_exit_codes():
        from rich.console import Console

        from server.baselines import ARMS
        from server.launch import Extent, prepare

        console = Console(stderr=as_json)
        simulation = prepare(
            study,
            sites,
            out=out,
            seed=seed,
            rounds=rounds,
            epsilon=epsilon,
            pretrained=pretrained,
            engine=engine.value,
            threads=threads,
            external=external or (),
        )
        extent = Extent(ARMS if with_baselines else (), folds=folds, leave_one_site_out=leave_one_site_out)
        _conclude(simulation, console, extent, as_json=as_json)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run directory.")]) -> None:
    """Write results.json, per_site.csv, figures and report.html of a run, finished or not.

    Example: consilium-center report runs/heart
    """
    with errors_to_exit_codes():
        from server import launch

        launch.report(run)
        typer.echo(f"report: {run / 'report.html'}")


for topic in (provision, center, run, watching, compare, export):
    topic.register(app)


def _conclude(simulation: "Simulation", console: "Console", extent: "Extent", *, as_json: bool = False) -> None:
    from server.launch import simulate as run

    record = run(simulation, extent=extent, console=console)
    if as_json:
        typer.echo((simulation.out / "results.json").read_text())
    summarize(record, simulation.out, console)


def summarize(record: "RunRecord", out: Path, console: "Console") -> None:
    """Print what a run came to: every site, all together, what failed, and where the report is."""
    import json

    from rich.table import Table

    results = json.loads((out / "results.json").read_text())
    table = Table(title=f"{record.protocol.study.title}: model after round {record.best_round}, test patients")
    for heading in ("site", "patients", "events", "AUC", "95 % interval"):
        table.add_column(heading, justify="left" if heading == "site" else "right")
    for name, site in results["sites"].items():
        auc = (site.get("metrics") or {}).get("auc")
        table.add_row(name, _count(site, "n"), _count(site, "events"), *_auc_cells(auc))
    table.add_row("all together", "", "", *_auc_cells(results["pooled"]["metrics"]["auc"]))
    console.print(table)
    for failure in record.failures:
        line = f"site {failure.site} did not count in round {failure.round} ({failure.phase}): {failure.reason}"
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"report: {out / 'report.html'}", highlight=False, soft_wrap=True)


def _count(site: dict[str, dict[str, int | None]], key: str) -> str:
    count = (site.get(key) or {}).get("test", "")
    return "withheld" if count is None else str(count)


def _auc_cells(auc: dict[str, float | None] | None) -> tuple[str, str]:
    if not auc or auc["value"] is None:
        return "not estimable", ""
    low, high = auc.get("low"), auc.get("high")
    return f"{auc['value']:.3f}", "" if low is None or high is None else f"{low:.3f} to {high:.3f}"


if __name__ == "__main__":
    app()
