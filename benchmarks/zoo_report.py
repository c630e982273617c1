"""Table, figure and page of what `zoo.py` has recorded."""

from collections.abc import Iterator

from zoo_figure import Column, figure

from ldm_jax.errors import UserError
from ldm_jax.shipped.recorded import RecordedAutoencoder, RecordedZoo

MARKS = ("<!-- written by benchmarks/zoo.py: begin -->", "<!-- end -->")
IN_FIGURE = 4  # scenes
HEADER = (
    "",
    "latent",
    "parameters",
    "PSNR, dB",
    "SSIM",
    "LPIPS",
    "KID",
    "whole caption",
    "shape",
    "colour",
    "std of z",
    "KL or codes",
    "seconds",
)


def table(zoo: RecordedZoo) -> str:
    """A line of markdown for each member, in the groups in which they are compared."""
    lines = [HEADER, ["---"] * len(HEADER)]
    for group, names in zoo.facts["groups"].items():
        lines.append([f"**{group}**", *[""] * (len(HEADER) - 1)])
        lines += [[title, *_cells(zoo.members[name].numbers)] for name, title in names.items()]
    true = _cells(zoo.facts["true_renders"])
    lines.append(["true renders", *true])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _cells(numbers: dict) -> Iterator[str]:
    """What follows the title; empty where there is no such number."""
    z, kid, read = numbers.get("z", {}), numbers["kid"], numbers["read"]
    yield "x".join(map(str, z.get("shape", ())))
    yield f"{numbers['parameters'] / 1e6:.2f} M" if "parameters" in numbers else ""
    for name, digits in (("psnr", 1), ("ssim", 3), ("lpips", 3)):
        yield f"{numbers[name]:.{digits}f}" if name in numbers else ""
    yield f"{kid['mean']:.4f} ± {kid['standard_error']:.4f}"
    for name in ("whole", "shape", "colour"):
        yield f"{read[name]:.1%}"
    yield f"{z['std']:.2f}" if z else ""
    if "kl" in z:
        yield f"{z['kl']:.2f} nats"
    elif "codes_used" in z:
        yield f"{z['codes_used']:.0%} used"
    else:
        yield ""
    yield f"{numbers['seconds']:.0f}" if "seconds" in numbers else ""


def drawn(zoo: RecordedZoo):
    """The figure: uint8 `[H, W, 3]`; a block for each group, and one for moments of a training."""
    truth = Column("truth", zoo.scenes[:IN_FIGURE], ("PSNR", "LPIPS"))
    blocks = {
        group: [truth, *(_column(title, zoo.members[name]) for name, title in names.items())]
        for group, names in zoo.facts["groups"].items()
    }
    for name, one in zoo.members.items():
        if one.moments:
            steps = {f"step {step}": one.moments[step] for step in sorted(one.moments)}
            last = {f"step {zoo.facts['same']['steps']}": one}
            columns = [_column(*item) for item in (steps | last).items()]
            blocks[f"training of {name}"] = [truth, *columns]
    bottlenecks = zoo.facts["groups"]
    for group, columns in blocks.items():
        if group.startswith("bottleneck"):
            names = bottlenecks[group]
            blocks[group] = [truth] + [
                column._replace(noise=zoo.members[name].noise[0])
                for column, name in zip(columns[1:], names, strict=True)
            ]
    titled = list(blocks.items())
    return figure([dict(titled[i : i + 2]) for i in range(0, len(titled), 2)])


def _column(title: str, one: RecordedAutoencoder) -> Column:
    numbers = one.numbers
    foot = f"{numbers['psnr']:.1f} dB", f"{numbers['lpips']:.3f}"
    return Column(title, one.images[:IN_FIGURE], foot)


def with_results(page: str, zoo: RecordedZoo) -> str:
    """A page with figure and table between its marks. UserError for one that has no marks."""
    before, begin, rest = page.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (begin and end):
        raise UserError(f"the page has no marks {MARKS[0]} and {MARKS[1]}")
    return f"{before}{begin}\n{results(zoo)}{end}{after}"


def results(zoo: RecordedZoo) -> str:
    """What is between the marks."""
    facts = zoo.facts
    return (
        "\n![Rows of scenes: the truth, and what each autoencoder makes of it; PSNR and LPIPS "
        f"below](zoo.png)\n\n{facts['judged']} held-out scenes; {facts['machine']}, "
        f"{facts['date']}, commit {facts['commit']}.\n\n{table(zoo)}\n"
    )
