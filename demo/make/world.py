"""A small visual world: scenes of coloured shapes and digits, questions about them, and a list of plain facts.

Everything is a function of a seed. A scene belongs to exactly one split (train, questions, calibration): the split is
read off a hash of the scene itself, so no scene of one split can ever appear in another, whatever the seeds are.
"""

from __future__ import annotations

import hashlib
import io
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

SIDE = 64  # scene coordinates run over a 64 x 64 square, which is also the vision tower's native image size

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
COLOURS = {
    "red": (214, 32, 38),
    "green": (30, 150, 60),
    "blue": (36, 72, 210),
    "yellow": (240, 210, 20),
    "orange": (245, 130, 20),
    "purple": (128, 40, 160),
    "pink": (245, 120, 180),
    "black": (20, 20, 20),
}
BACKGROUNDS = ((255, 255, 255), (222, 222, 222), (240, 232, 208), (206, 226, 240))
PLACES = (
    "top left", "top", "top right",
    "left", "centre", "right",
    "bottom left", "bottom", "bottom right",
)  # the cells of a 3 x 3 grid in reading order
# Digits as 5 x 7 bitmaps, one string per row: drawn here so that no font is needed.
GLYPHS = {
    "0": "01110 10001 10011 10101 11001 10001 01110",
    "1": "00100 01100 00100 00100 00100 00100 01110",
    "2": "01110 10001 00001 00110 01000 10000 11111",
    "3": "11110 00001 00001 01110 00001 00001 11110",
    "4": "00010 00110 01010 10010 11111 00010 00010",
    "5": "11111 10000 11110 00001 00001 10001 01110",
    "6": "01110 10000 10000 11110 10001 10001 01110",
    "7": "11111 00001 00010 00100 01000 01000 01000",
    "8": "01110 10001 10001 01110 10001 10001 01110",
    "9": "01110 10001 10001 01111 00001 00001 01110",
}

IMAGE_CATEGORIES = ("shape", "colour", "position", "count", "digit", "caption")
CATEGORIES = IMAGE_CATEGORIES + ("fact",)
# Asked in training only: an answer that names every object with its place teaches the tower fastest.
LAYOUT = "layout"

CAPTION_LIMIT = 3  # captions of more objects would not be short answers
SPLITS = ("train", "questions", "calibration")


@dataclass(frozen=True)
class Thing:
    """One shape or digit; lengths are in scene coordinates."""

    kind: str  # a name of SHAPES or one of the digits "0".."9"
    colour: str
    rgb: tuple[int, int, int]  # the colour as painted: each thing has its own slight shade
    cell: int  # index into PLACES
    x: float
    y: float
    radius: float

    @property
    def is_digit(self) -> bool:
        return self.kind in GLYPHS

    @property
    def place(self) -> str:
        return PLACES[self.cell]


@dataclass(frozen=True)
class Scene:
    background: tuple[int, int, int]
    things: tuple[Thing, ...]  # in reading order

    def split(self) -> str:
        """The only split this scene may be used in: 1/16 questions, 1/16 calibration, the rest training."""
        bucket = hashlib.sha256(repr(self).encode()).digest()[0] % 16
        return {0: "questions", 1: "calibration"}.get(bucket, "train")


@dataclass(frozen=True)
class Question:
    category: str
    text: str
    answer: str


# ---------------------------------------------------------------------------------------------------------- scenes


def shade(rng: random.Random, rgb: tuple[int, int, int]) -> tuple[int, int, int]:
    r, g, b = (min(255, max(0, c + rng.randint(-9, 9))) for c in rgb)
    return (r, g, b)


def draw_thing(rng: random.Random, cell: int) -> Thing:
    kind = rng.choice(tuple(GLYPHS)) if rng.random() < 0.22 else rng.choice(SHAPES)
    colour = rng.choice(tuple(COLOURS))
    radius = rng.choice((7.0, 7.5, 8.0, 8.5, 9.0))
    slack = SIDE / 6 - radius  # keeps the thing inside its cell
    x = (cell % 3 + 0.5) * SIDE / 3 + round(rng.uniform(-slack, slack), 1)
    y = (cell // 3 + 0.5) * SIDE / 3 + round(rng.uniform(-slack, slack), 1)
    return Thing(kind, colour, shade(rng, COLOURS[colour]), cell, round(x, 2), round(y, 2), radius)


def draw_scene(rng: random.Random, split: str) -> Scene:
    """A random scene of the split: scenes of other splits are thrown away."""
    while True:
        count = rng.choices((1, 2, 3, 4, 5), weights=(20, 30, 25, 15, 10))[0]
        cells = sorted(rng.sample(range(len(PLACES)), count))
        things = tuple(draw_thing(rng, cell) for cell in cells)
        scene = Scene(shade(rng, rng.choice(BACKGROUNDS)), things)
        if scene.split() == split:
            return scene


# ---------------------------------------------------------------------------------------------------------- images


def outline(kind: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    """Corner points of the shapes that are polygons."""
    a = r / 3  # half the width of a cross's arm
    return {
        "square": [(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)],
        "triangle": [(x, y - r), (x + r, y + r), (x - r, y + r)],
        "diamond": [(x, y - r), (x + r, y), (x, y + r), (x - r, y)],
        "cross": [
            (x - a, y - r), (x + a, y - r), (x + a, y - a), (x + r, y - a), (x + r, y + a), (x + a, y + a),
            (x + a, y + r), (x - a, y + r), (x - a, y + a), (x - r, y + a), (x - r, y - a), (x - a, y - a),
        ],
    }[kind]  # fmt: skip


def paint_digit(canvas: ImageDraw.ImageDraw, digit: str, x: float, y: float, r: float, rgb: tuple[int, ...]) -> None:
    pixel = 2 * r / 7
    for row, bits in enumerate(GLYPHS[digit].split()):
        for column, bit in enumerate(bits):
            if bit == "1":
                left, top = x + (column - 2.5) * pixel, y + (row - 3.5) * pixel
                canvas.rectangle((left, top, left + pixel - 0.5, top + pixel - 0.5), fill=rgb)


def paint(canvas: ImageDraw.ImageDraw, thing: Thing, x: float, y: float, r: float) -> None:
    box = (x - r, y - r, x + r, y + r)
    if thing.is_digit:
        paint_digit(canvas, thing.kind, x, y, r, thing.rgb)
    elif thing.kind == "circle":
        canvas.ellipse(box, fill=thing.rgb)
    elif thing.kind == "ring":
        canvas.ellipse(box, outline=thing.rgb, width=max(2, round(r * 0.4)))
    else:
        canvas.polygon(outline(thing.kind, x, y, r), fill=thing.rgb)


def render(scene: Scene, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """Paints the scene. In an image that is not square the scene fills the middle square, the part that survives the
    processor's centre crop."""
    width, height = size
    scale = min(size) / SIDE
    left, top = (width - SIDE * scale) / 2, (height - SIDE * scale) / 2
    image = Image.new("RGB", size, scene.background)
    canvas = ImageDraw.Draw(image)
    for thing in scene.things:
        paint(canvas, thing, left + thing.x * scale, top + thing.y * scale, thing.radius * scale)
    return image


def draw_size(rng: random.Random) -> tuple[int, int]:
    sizes = ((64, 64), (80, 64), (64, 80), (96, 96), (56, 56), (72, 64), (112, 84))
    return rng.choices(sizes, weights=(55, 10, 10, 8, 6, 6, 5))[0]


def draw_format(rng: random.Random) -> tuple[str, dict[str, int | bool]]:
    """A file format and its options for PIL's save()."""
    name = rng.choices(("PNG", "JPEG", "WEBP"), weights=(60, 20, 20))[0]
    if name == "PNG":
        return name, {"optimize": True}
    if name == "WEBP" and rng.random() < 0.3:
        return name, {"lossless": True}
    return name, {"quality": rng.randint(75, 95)}


def encode(image: Image.Image, name: str, options: dict[str, int | bool]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=name, **options)
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------------------- questions


def at(place: str) -> str:
    """"left" -> "on the left", "centre" -> "in the centre", "top left" -> "at the top left"."""
    preposition = {"left": "on", "right": "on", "centre": "in"}.get(place, "at")
    return f"{preposition} the {place}"


def noun(thing: Thing) -> str:
    return f"digit {thing.kind}" if thing.is_digit else thing.kind


def alone(things: tuple[Thing, ...], *fields: str) -> list[Thing]:
    """The things that no other thing of the scene equals in all the given fields."""
    keys = [tuple(getattr(t, f) for f in fields) for t in things]
    return [t for t, key in zip(things, keys) if keys.count(key) == 1]


def with_article(thing: Thing) -> str:
    name = f"{thing.colour} {thing.kind}"
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def caption(scene: Scene) -> str:
    names = [with_article(t) for t in scene.things]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def ask_shape(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    shapes = [t for t in scene.things if not t.is_digit]
    if not shapes:
        return None
    thing = rng.choice(shapes)
    forms = [f"What shape is {at(thing.place)}?", f"Which shape do you see {at(thing.place)}?"]
    if thing in alone(scene.things, "colour"):
        forms += [f"What shape is the {thing.colour} object?", f"Which shape is {thing.colour}?"]
    return rng.choice(forms), thing.kind


def ask_colour(rng: random.Random, scene: Scene) -> tuple[str, str]:
    thing = rng.choice(scene.things)
    forms = [f"What colour is the object {at(thing.place)}?"]
    if thing in alone(scene.things, "kind"):
        forms += [f"What colour is the {noun(thing)}?", f"Which colour does the {noun(thing)} have?"]
    return rng.choice(forms), thing.colour


def ask_position(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    thing = rng.choice(scene.things)
    names = []
    if thing in alone(scene.things, "kind"):
        names.append(noun(thing))
    if thing in alone(scene.things, "kind", "colour"):
        names.append(f"{thing.colour} {noun(thing)}")
    if not names:
        return None
    name = rng.choice(names)
    return rng.choice((f"Where is the {name}?", f"In which part of the image is the {name}?")), thing.place


def ask_count(rng: random.Random, scene: Scene) -> tuple[str, str]:
    things = scene.things
    subject = rng.choice(("all", "kind", "colour"))
    if subject == "all":
        forms = ("How many objects are there?", "How many objects does the image show?")
        return rng.choice(forms), str(len(things))
    if subject == "kind":
        shown = [t.kind for t in things if not t.is_digit]
        kind = rng.choice(shown) if shown and rng.random() < 0.75 else rng.choice(SHAPES)
        plural = "crosses" if kind == "cross" else kind + "s"
        return f"How many {plural} are there?", str(sum(t.kind == kind for t in things))
    colour = rng.choice(things).colour if rng.random() < 0.75 else rng.choice(tuple(COLOURS))
    return f"How many {colour} objects are there?", str(sum(t.colour == colour for t in things))


def ask_digit(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    digits = tuple(t for t in scene.things if t.is_digit)
    if not digits:
        return None
    thing = rng.choice(digits)
    forms = [f"What digit is {at(thing.place)}?"]
    if thing in alone(digits, "colour"):
        forms.append(f"What digit is {thing.colour}?")
    if len(digits) == 1:
        forms += ["What digit is shown?", "Which digit do you see?"]
    return rng.choice(forms), thing.kind


def ask_caption(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    if len(scene.things) > CAPTION_LIMIT:
        return None
    return rng.choice(("Describe the image.", "What does the image show?", "Write a caption.")), caption(scene)


def ask_layout(rng: random.Random, scene: Scene) -> tuple[str, str]:
    return "List all objects.", ", ".join(f"{t.place} {t.colour} {t.kind}" for t in scene.things)


ASKERS = {
    "shape": ask_shape,
    "colour": ask_colour,
    "position": ask_position,
    "count": ask_count,
    "digit": ask_digit,
    "caption": ask_caption,
    LAYOUT: ask_layout,
}


def ask(rng: random.Random, scene: Scene, category: str) -> Question | None:
    """A question of the category, or None when the scene allows none."""
    pair = ASKERS[category](rng, scene)
    return Question(category, *pair) if pair else None


# ----------------------------------------------------------------------------------------------------------- facts

CAPITALS = """France Paris, Germany Berlin, Italy Rome, Spain Madrid, Portugal Lisbon, Austria Vienna, Poland Warsaw,
Norway Oslo, Sweden Stockholm, Finland Helsinki, Denmark Copenhagen, Greece Athens, Ireland Dublin, Hungary Budapest,
Japan Tokyo, China Beijing, Egypt Cairo, Kenya Nairobi, Cuba Havana, Peru Lima, Chile Santiago, Canada Ottawa,
Russia Moscow, Turkey Ankara, Iran Tehran, Iraq Baghdad, Thailand Bangkok, Vietnam Hanoi, Belgium Brussels,
Switzerland Bern, Romania Bucharest, Bulgaria Sofia, Ukraine Kyiv, Ghana Accra, Senegal Dakar, Morocco Rabat"""
OPPOSITES = """hot cold, big small, up down, left right, open closed, day night, black white, fast slow, old new,
wet dry, high low, early late, hard soft, long short, full empty, light dark, near far, rich poor, loud quiet"""
SIDES = {"triangle": 3, "square": 4, "diamond": 4, "circle": 0, "ring": 0, "cross": 12}
LEGS = {"spider": 8, "dog": 4, "bird": 2, "ant": 6, "horse": 4, "fish": 0, "snake": 0, "bee": 6}
THINGS_COLOURED = {
    "the sky": "blue", "grass": "green", "snow": "white", "a lemon": "yellow", "a ripe tomato": "red", "coal": "black",
    "a carrot": "orange", "a banana": "yellow", "blood": "red", "milk": "white",
}  # fmt: skip
MIXES = {("red", "yellow"): "orange", ("blue", "yellow"): "green", ("red", "blue"): "purple", ("red", "white"): "pink"}
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
          "November", "December")  # fmt: skip


def pairs(text: str) -> list[list[str]]:
    return [item.split() for item in text.replace("\n", " ").split(",")]


def facts() -> list[Question]:
    """Every fact of the world, in a fixed order. Facts cannot be guessed, so training sees all of them; questions and
    calibration use disjoint parts."""
    found: list[tuple[str, str]] = []
    found += [(f"What is the capital of {country}?", city) for country, city in pairs(CAPITALS)]
    for word, other in pairs(OPPOSITES):
        found += [(f"What is the opposite of {word}?", other), (f"What is the opposite of {other}?", word)]
    found += [(f"How many sides does a {name} have?", str(n)) for name, n in SIDES.items()]
    found += [(f"How many legs does a {name} have?", str(n)) for name, n in LEGS.items()]
    found += [(f"What colour is {name}?", colour) for name, colour in THINGS_COLOURED.items()]
    found += [(f"What do you get from mixing {a} and {b}?", c) for (a, b), c in MIXES.items()]
    found += [(f"Which day comes after {day}?", DAYS[(i + 1) % 7]) for i, day in enumerate(DAYS)]
    found += [(f"Which month comes after {month}?", MONTHS[(i + 1) % 12]) for i, month in enumerate(MONTHS)]
    found += [(f"What is {a} plus {b}?", str(a + b)) for a in range(10) for b in range(10)]
    found += [(f"What is {a} minus {b}?", str(a - b)) for a in range(10) for b in range(a + 1)]
    unique = dict(found)  # "What is the opposite of left?" may be listed from both ends
    return [Question("fact", text, answer) for text, answer in unique.items()]
