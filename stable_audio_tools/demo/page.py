"""The demo's page: training examples beside generated clips, and the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from stable_audio_tools.demo.evaluate import Evaluation
from stable_audio_tools.report.page import Page


def write_page(
    output: Path,
    evaluation: Evaluation,
    source: str,
    generated: Sequence[tuple[str, str, Path]],
    examples: Mapping[str, Sequence[tuple[Path, str]]],
    curves: Path | None,
) -> Path:
    """Write ``index.html``.

    Args:
        output: The demo's folder.
        evaluation: The numbers.
        source: Where the training sounds come from.
        generated: (class, prompt, file) of every generated clip; pictures lie beside the files.
        examples: Class -> (file, caption) of some training clips; pictures lie beside the files.
        curves: Picture of the loss.

    Returns:
        The page.
    """
    page = Page(output / "index.html", "A text-to-audio model, trained here")
    page.paragraph(f"Trained on {source}. The prompts below are worded in ways that no training caption is.")
    page.heading("Does it do what it is told?")
    page.paragraph(
        f"A classifier, fitted on the training sounds alone, takes {evaluation.agreement:.0%} of the generated clips for the class of "
        f"their prompt ({evaluation.num_per_class} clips per class, seeds fixed beforehand)."
    )
    page.table(
        ["compared with", "right"],
        [
            ["generated clips", f"{evaluation.agreement:.0%}"],
            ["held-out sounds, which neither model nor classifier has seen", f"{evaluation.classifier_accuracy:.0%}"],
            ["the same, encoded and decoded", f"{evaluation.reconstruction_accuracy:.0%}"],
            ["guessing", f"{evaluation.chance:.0%}"],
        ],
    )
    page.paragraph(
        f"{evaluation.spectrogram_match:.0%} of the generated spectrograms correlate more with the mean of their own class than with that "
        f"of any other. Clips of one class differ from each other {evaluation.diversity:.2f} times as much as held-out sounds do (1 is as "
        "varied as real ones; near 0, every clip would be the same)."
    )
    page.heading("What clips of each class were taken for", level=3)
    rows = [
        [name, f"{evaluation.agreement_by_class[name]:.0%}", *counts]
        for name, counts in zip(evaluation.classes, evaluation.answers, strict=True)
    ]
    page.table(["prompted", "agreement", *evaluation.classes], rows)
    for name in evaluation.classes:
        page.heading(name)
        page.paragraph("training examples", is_note=True)
        page.clips([(path, path.with_suffix(".png"), caption) for path, caption in examples.get(name, [])])
        page.paragraph("generated", is_note=True)
        page.clips([(path, path.with_suffix(".png"), prompt) for label, prompt, path in generated if label == name])
    if curves is not None:
        page.heading("Training")
        page.image(curves, caption="training loss over steps")
    page.heading("Limits")
    page.paragraph(
        "The classifier looks at log-mel statistics; it says whether a clip has the shape of its class, not whether it is beautiful. "
        "Sounds are 1.5 s of mono at 22.05 kHz. Phases are reconstructed (Griffin-Lim), which leaves tonal sounds a little rough; a "
        "trained autoencoder, as the larger models have, does not need that."
    )
    return page.write()
