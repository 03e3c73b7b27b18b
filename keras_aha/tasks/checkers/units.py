"""The units that may stand beside a number, and the currencies. Nothing is converted."""

import re

# Each line of names is one unit; the first name is what `unit_name` returns.
_UNITS = """
%, percent, per cent, pct|$, us$, dollar, us dollar, usd|€, euro, eur|£, pound, lb, gbp|¥, yen, jpy, yuan, cny
₹, rupee, inr|¢, cent|°, degree, deg|°c, degrees celsius, celsius|°f, degrees fahrenheit, fahrenheit|kelvin|rad, radian
unit|time|s, sec, second|ms, millisecond|min, minute|h, hr, hour|day|week|month|year, yr, years old
mm, millimeter, millimetre|cm, centimeter, centimetre|m, meter, metre|km, kilometer, kilometre
in, inch, inches|ft, foot, feet|yd, yard|mi, mile|mi/h, mph|km/h, kmh, kph
mg, milligram|g, gram|kg, kilogram, kilo|t, ton, tonne|oz, ounce
ml, milliliter, millilitre|l, liter, litre|gal, gallon|mol, mole
n, newton|j, joule|kj, kilojoule|cal, calorie|kcal, kilocalorie|w, watt|kw, kilowatt|kwh, kilowatt hour
v, volt|a, amp, ampere|ohm, Ω|hz, hertz|pa, pascal
"""
_LINES = [line.split(", ") for line in _UNITS.strip().replace("\n", "|").split("|")]
_NAMES = {form.casefold(): names[0] for names in _LINES for name in names for form in (name, f"{name}s")}
_POWERED = re.compile(r"(?:(square|sq|cubic|cu)\.? )?(.*?)(?:\^([23]))?")
_POWERS = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3", "2": "^2", "3": "^3"}


def unit_name(text: str) -> str | None:
    """One name for all ways to write a unit: `m/s^2` of `meters per s^2`, `""` of no text; `None` if it is no unit."""
    names = []
    for part in re.split("/| per ", text.casefold()) if text else ():
        before, name, after = _POWERED.fullmatch(part.strip()).groups()
        if name not in _NAMES or (before and after):
            return None
        names.append(_NAMES[name] + _POWERS.get(before or after, ""))
    return "/".join(names)
