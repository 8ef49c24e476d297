"""The words of the synthetic catalogue: what its departments, categories, styles, colours and brands are called."""

from __future__ import annotations

# department: (categories, styles); every style word can stand before every category of its department
TREE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Beauty": (
        ("Lipstick", "Nail Polish", "Eyeshadow", "Blusher", "Highlighter", "Body Lotion"),
        ("Matte", "Velvet", "Sheer", "Dewy", "Shimmer", "Satin", "Luminous", "Botanical"),
    ),
    "Kitchen": (
        ("Teapot", "Saucepan", "Mug", "Mixing Bowl", "Chef's Knife", "Cake Stand"),
        ("Rustic", "Nordic", "Farmhouse", "Bistro", "Retro", "Minimalist", "Artisan", "Professional"),
    ),
    "Fashion": (
        ("Scarf", "Cardigan", "Tote Bag", "Ankle Boots", "Sun Hat", "Raincoat"),
        ("Vintage", "Classic", "Bohemian", "Preppy", "Nautical", "Parisian", "Heritage", "Relaxed"),
    ),
    "Garden": (
        ("Watering Can", "Planter", "Bench", "Lantern", "Bird Feeder", "Parasol"),
        ("Cottage", "Woodland", "Coastal", "Tuscan", "Orchard", "Meadow", "Courtyard", "Zen"),
    ),
    "Sport": (
        ("Yoga Mat", "Running Shoes", "Water Bottle", "Backpack", "Track Jacket", "Tennis Racket"),
        ("Lightweight", "All-Weather", "Endurance", "Alpine", "Studio", "Junior", "Club", "Pro"),
    ),
    "Home": (
        ("Throw Blanket", "Cushion", "Table Lamp", "Rug", "Curtain", "Wall Clock"),
        ("Boho", "Scandinavian", "Art Deco", "Industrial", "Mid-Century", "Country", "Geometric", "Floral"),
    ),
    "Stationery": (
        ("Notebook", "Fountain Pen", "Desk Organiser", "Sketchbook", "Pencil Case", "Diary"),
        ("Pocket", "Executive", "Scholar", "Traveller's", "Marbled", "Embossed", "Everyday", "Keepsake"),
    ),
    "Audio": (
        ("Headphones", "Turntable", "Bookshelf Speaker", "Radio", "Earbuds", "Microphone"),
        ("Wireless", "Broadcast", "Classic", "Compact", "Deep-Bass", "Hi-Fi", "Portable", "Signature"),
    ),
}

COLOURS = (
    *("Rose Gold", "Ivory", "Midnight Blue", "Sage Green", "Coral", "Charcoal", "Lavender", "Mustard", "Terracotta"),
    *("Teal", "Blush Pink", "Silver", "Burgundy", "Mint", "Copper", "Sky Blue", "Plum", "Cream", "Forest Green"),
    *("Amber", "Slate Grey", "Peach", "Cobalt", "Black"),
)

_HOUSES = (
    *("Lindenhof", "Harrowby", "Marenne", "Callowell", "Islaya", "Thornequist", "Vesperine", "Junivale", "Bellamar"),
    *("Wrenfield", "Ospreyne", "Larkhurst", "Sablewood", "Fenmoor", "Marlowen", "Quillbeck"),
)
BRANDS = tuple(f"{house} {kind}" for kind in ("& Co.", "Studio", "Works") for house in _HOUSES)

_FIRST = (
    *("Amber", "Silent", "Golden", "Northern", "Hidden", "Velvet"),
    *("Distant", "Morning", "Wild", "Crystal", "Autumn", "Lunar"),
)
_SECOND = ("Coast", "Garden", "Harbour", "Valley", "Song", "Forest", "Light", "River", "Bloom", "Horizon")
SERIES = tuple(f"{first} {second}" for first in _FIRST for second in _SECOND)

# Features, of four values each: of an event what was done with the item, and where it happened, which is known when a
# recommendation is asked for; of an item what no vector or text tells; of a user.
SIGNALS = ("action", "context", "item", "user")
ACTIONS = ("view", "cart", "buy", "like")
DEVICES = ("phone", "tablet", "desktop", "tv")
SEASONS = ("spring", "summer", "autumn", "winter")
PLANS = ("free", "basic", "family", "premium")
