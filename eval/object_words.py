"""Words for the 80 object categories of COCO, as people write them in captions."""

from handler.function_words import FUNCTION_WORDS

# Singular words and phrases; plurals are derived from them. A category is also named by its own name.
_WORDS = {
    "person": "man, woman, boy, girl, child, kid, baby, toddler, infant, guy, lady, gentleman, player, skier, "
    "snowboarder, surfer, skateboarder, skater, rider, biker, cyclist, bicyclist, motorcyclist, pedestrian, policeman, "
    "officer, soldier, fireman, worker, chef, waiter, waitress, driver, passenger, batter, pitcher, catcher, "
    "umpire, swimmer, student, teacher, bride, groom, couple, friend, adult, teenager, male, female, sister, "
    "brother, father, mother, son, daughter, cowboy, jockey, athlete, spectator, farmer, tourist",
    "bicycle": "bike",
    "car": "automobile, sedan, taxi, cab, suv, minivan, convertible, hatchback, jeep",
    "motorcycle": "motorbike, motor bike, moped, scooter",
    "airplane": "plane, aeroplane, jet, aircraft, airliner, biplane, jetliner",
    "bus": "school bus, double decker, double-decker, minibus",
    "train": "locomotive, subway train, tram, trolley, commuter train, passenger train",
    "truck": "pickup, lorry, fire truck, firetruck, fire engine, semi, pickup truck, dump truck",
    "boat": "ship, sailboat, canoe, kayak, ferry, yacht, rowboat, motorboat, gondola, raft",
    "traffic light": "stoplight, traffic signal, stop light",
    "fire hydrant": "hydrant",
    "stop sign": "",
    "parking meter": "",
    "bench": "",
    "bird": "duck, goose, pigeon, seagull, gull, parrot, owl, eagle, hawk, swan, ostrich, peacock, crow, "
    "pelican, flamingo, penguin, sparrow, hummingbird",
    "cat": "kitten, kitty",
    "dog": "puppy, pup, poodle, bulldog, terrier, labrador, dachshund, retriever",
    "horse": "pony, foal, colt, stallion, mare",
    "sheep": "lamb, ram, ewe",
    "cow": "cattle, bull, calf, ox, steer, oxen",
    "elephant": "",
    "bear": "polar bear, grizzly bear, grizzly, panda",
    "zebra": "",
    "giraffe": "",
    "backpack": "rucksack, knapsack",
    "umbrella": "parasol",
    "handbag": "purse, hand bag",
    "tie": "necktie, bow tie",
    "suitcase": "luggage, suit case, baggage",
    "frisbee": "flying disc",
    "skis": "ski",
    "snowboard": "snow board",
    "sports ball": "ball, soccer ball, tennis ball, baseball ball, basketball, football, volleyball",
    "kite": "",
    "baseball bat": "bat",
    "baseball glove": "mitt, baseball mitt",
    "skateboard": "skate board",
    "surfboard": "surf board, bodyboard",
    "tennis racket": "racket, racquet, tennis racquet",
    "bottle": "",
    "wine glass": "wineglass",
    "cup": "mug, teacup, coffee cup",
    "fork": "",
    "knife": "",
    "spoon": "",
    "bowl": "",
    "banana": "",
    "apple": "",
    "sandwich": "burger, hamburger, cheeseburger, panini",
    "orange": "",
    "broccoli": "",
    "carrot": "",
    "hot dog": "hotdog, chili dog",
    "pizza": "",
    "donut": "doughnut, bagel",
    "cake": "cupcake, birthday cake, cheesecake",
    "chair": "armchair, stool, recliner",
    "couch": "sofa, loveseat, futon",
    "potted plant": "houseplant, house plant, flower pot",
    "bed": "",
    "dining table": "table, desk, dinner table, kitchen table",
    "toilet": "urinal, commode",
    "tv": "television, monitor, television set",
    "laptop": "laptop computer, notebook computer, macbook",
    "mouse": "computer mouse",
    "remote": "remote control, controller, wii remote, wiimote",
    "keyboard": "",
    "cell phone": "cellphone, phone, mobile phone, smartphone, smart phone, iphone, telephone",
    "microwave": "microwave oven",
    "oven": "stove, stovetop",
    "toaster": "",
    "sink": "",
    "refrigerator": "fridge, freezer",
    "book": "",
    "clock": "clock tower, alarm clock",
    "vase": "",
    "scissors": "",
    "teddy bear": "teddy, stuffed bear",
    "hair drier": "hair dryer, hairdryer, blow dryer, blow drier",
    "toothbrush": "tooth brush",
}
# Phrases with a word of a category that name something else; the longest phrase at a word counts.
_OTHER = (
    "train track, train station, bus stop, bus station, car seat, boat dock, toilet paper, toilet seat, table "
    "cloth, table tennis, bed spread, book shelf, book case, bottle opener, apple juice, carrot cake, banana "
    "bread, home plate, cat fish, ski slope, ski lift, ski pole, ski resort, ski jump, ski boot, football field, "
    "basketball court, cup holder, chair lift, phone booth, computer screen, computer monitor, bird house, dog "
    "house, mouse pad, tie dye"
)
_ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe")  # and their babies
_IRREGULAR = {
    "man": "men",
    "woman": "women",
    "child": "children",
    "person": "people",
    "gentleman": "gentlemen",
    "policeman": "policemen",
    "fireman": "firemen",
    "goose": "geese",
    "mouse": "mice",
    "knife": "knives",
    "calf": "calves",
    "sheep": "sheep",
    "skis": "skis",
    "scissors": "scissors",
    "cattle": "cattle",
    "oxen": "oxen",
    "aircraft": "aircraft",
    "luggage": "luggage",
    "baggage": "baggage",
    "broccoli": "broccoli",
}


def _plural(phrase: str) -> str:
    """Return the plural of a phrase, which is that of its last word."""
    *before, word = phrase.split(" ")
    if word in _IRREGULAR:
        plural = _IRREGULAR[word]
    elif word.endswith("y") and word[-2] not in "aeiou":
        plural = f"{word[:-1]}ies"
    else:
        plural = f"{word}es" if word.endswith(("s", "x", "ch", "sh")) else f"{word}s"
    return " ".join([*before, plural])


def _phrases() -> dict[tuple[str, ...], str | None]:
    phrases: dict[tuple[str, ...], str | None] = {}
    for category, text in _WORDS.items():
        for phrase in (category, *(part.strip() for part in text.split(",") if part.strip())):
            phrases[tuple(phrase.split())] = phrases[tuple(_plural(phrase).split())] = category
    for category in _ANIMALS:
        phrases["baby", category] = phrases["baby", _plural(category)] = category
    for phrase in _OTHER.split(", "):
        phrases[tuple(phrase.split())] = phrases[tuple(_plural(phrase).split())] = None
    return phrases


CATEGORIES = tuple(_WORDS)
PHRASES = _phrases()
"""Category by phrase; None for a phrase that names no object of COCO."""

_LONGEST = max(map(len, PHRASES))


def mentioned_objects(tokens: list[str]) -> list[str]:
    """Return the category of each mention of an object in a caption, in its order."""
    found, i = [], 0
    while i < len(tokens):
        for length in range(_LONGEST, 0, -1):
            phrase = tuple(tokens[i : i + length])
            if len(phrase) == length and phrase in PHRASES:
                is_color = phrase == ("orange",) and i + 1 < len(tokens) and tokens[i + 1] not in FUNCTION_WORDS
                if (category := PHRASES[phrase]) and not is_color:
                    found.append(category)
                break
        else:
            length = 1
        i += length
    return found
