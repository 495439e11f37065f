"""The section `teacher`: training clouds that no shot uses, with the labels that a trained network gives them."""

from __future__ import annotations

from image2point.config.frozen import Probability, Section


class Teacher(Section):
    """Learn, besides the shots, from other training clouds as a teacher labels them; their own labels play no part."""

    network: str | None = None
    """The teacher, trained for the same classes: a finished run, a folder that `net.save` wrote, or `hf:OWNER/NAME`;
    null for none. Clouds that `choose.clouds` takes are left out."""
    threshold: Probability = 0.5
    """Clouds whose most probable class has a smaller probability are left out."""
    soft: bool = False
    """Learn the teacher's probabilities of all classes, not its most probable class alone."""
