"""What is markup in a script: silence is obeyed, Markdown is read, anything else is refused with its place."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avatarlab.errors import ScriptError
from avatarlab.text import Pause, Sentence, split_script

REFUSED = [
    # tags
    ("a <b>bold</b> word", ("'<b>' in line 1, column 3", "'</b>' in line 1, column 10")),
    ("one\ntwo <em>x", ("'<em>' in line 2, column 5",)),
    ("one\r\n\r\n  <br/> two", ("'<br/>' in line 3, column 3",)),
    ('<prosody rate="slow">hi</prosody>', ("'<prosody rate=\"slow\">' in line 1, column 1", "'</prosody>'")),
    ("<speak>hi</speak>", ("'<speak>' in line 1, column 1",)),
    ("hi <laugh> there", ("'<laugh>' in line 1, column 4",)),
    ("hi <Laugh/> there", ("'<Laugh/>'",)),
    ("hi <a href=x.html>there", ("'<a href=x.html>'",)),
    ('hi <voice name="ada" there', ("'<voice name=\"'",)),
    ("List<b>x", ("'<b>'",)),
    ("<!-- a note --> hi", ("'<!-- a note -->' in line 1, column 1",)),
    ("<?xml version='1.0'?> hi", ("<?xml version='1.0'?>",)),
    # pauses that are none
    ("hi [pause x] there", ("'[pause x]' in line 1, column 4",)),
    ("hi [pause -1] there", ("'[pause -1]'",)),
    ("hi [pause .] there", ("'[pause .]'",)),
    ("hi [pause 1.5 there", ("'[pause 1.5 there'",)),
    ("hi [pause for effect] there", ("'[pause for effect]'",)),
    ('hi <break time="1.5"/> there', ("'<break time=\"1.5\"/>' in line 1, column 4",)),
    ("hi <break time=1s/> there", ("'<break time=1s/>'",)),
    ('hi <break strength="weak"/> there', ("'<break strength=\"weak\"/>'",)),
    ('hi <break time="fast"/> there', ("'<break time=\"fast\"/>'",)),
    ('hi <break time="1s" there', ("'<break time=\"1s\" there'",)),
    # directions
    ("well [laughs] yes", ("'[laughs]' in line 1, column 6",)),
    ("well [Sigh of relief] yes", ("'[Sigh of relief]'",)),
    ("[whispering] yes", ("'[whispering]'",)),
    ("[slow] yes", ("'[slow]'",)),
    ("[speed: 0.8] yes", ("'[speed: 0.8]'",)),
    ("[rate 80%] yes", ("'[rate 80%]'",)),
    ("[emphasis]yes[/emphasis]", ("'[emphasis]'", "'[/emphasis]' in line 1, column 14")),
    ("[b]yes[/b]", ("'[/b]' in line 1, column 7",)),
]


@pytest.mark.parametrize(("script", "places"), REFUSED)
def test_other_markup_is_refused_with_its_place(script: str, places: tuple[str, ...]) -> None:
    with pytest.raises(ScriptError, match="markup") as caught:
        split_script(script)
    for place in places:
        assert place in caught.value.message
    assert "[pause 1.5]" in caught.value.remedy


@pytest.mark.parametrize(
    ("script", "spoken"),
    [
        ("if a < b and c > d", "if ay is less than b and c is greater than d."),
        ("if a <b and c> d", "if ay is less than b and c is greater than d."),
        ("x<3 and y>4", "x is less than three and y is greater than four."),
        ("I <3 you", "i is less than three you."),
        ("x[0] and [1]", "x, zero, and, one."),
        ("fact [citation needed] here", "fact, citation needed, here."),
        ("the [slow cooker] here", "the, slow cooker, here."),
        ("[break even] now", "break even, now."),
        ("[paused] now", "paused, now."),
        ("a List<int> here", "a list is less than int is greater than here."),
        ("the type <T> here", "the type is less than t is greater than here."),
        ("write #include <vector> first", "write hashtag include is less than vector is greater than first."),
        ("see <https://example.com/x> there", "see example dot com slash x there."),
        ("ask <jane@example.com> there", "ask jane at example dot com there."),
        ("[pause](https://x.y) and [slow](z)", "pause and slow."),
        ("&lt;b&gt; and AT&amp;T", "is less than b is greater than and ay t and t."),
        ("write `<b>` and `[pause 1]` there", "write is less than b is greater than and, pause one, there."),
        ("```html\n<b>bold</b>\n```", "is less than b is greater than bold is less than slash b is greater than."),
        ("**bold** and [a link](u)", "bold and a link."),
        ("a -> b and c <- d", "a to b and c from d."),
        ("x <y z> w", "x is less than y z is greater than w."),
    ],
)
def test_ordinary_text_and_markdown_are_no_markup(script: str, spoken: str) -> None:
    parts = split_script(script).parts
    assert [part.spoken for part in parts if isinstance(part, Sentence)] == [spoken]
    assert len(parts) == 1


@pytest.mark.parametrize(
    "mark", ["[pause 1.5]", '<break time="1.5s"/>', "<break time='1500ms'></break>", "[PAUSE: 1.5 s]"]
)
def test_both_marks_of_silence_mean_the_same(mark: str) -> None:
    assert split_script(f"One. {mark} Two.").parts == (
        Sentence("One.", "one.", 0),
        Pause(1.52),
        Sentence("Two.", "two.", 0),
    )


def test_a_script_full_of_markup_names_five_places_and_counts_the_rest() -> None:
    with pytest.raises(ScriptError) as caught:
        split_script("<i>x</i> " * 10)
    assert len(re.findall("line 1, column", caught.value.message)) == 5
    assert "and 15 more" in caught.value.message


@settings(max_examples=100, deadline=None)
@given(
    st.text(alphabet="ab <>/[]pause1.=\"'`\n", max_size=60),
    st.sampled_from(["<b>", "[laugh]", "<break 1>", "[pause x]"]),
)
def test_markup_is_found_wherever_it_stands_outside_code(before: str, markup: str) -> None:
    script = before.replace("`", "").replace("<", "").replace("[", "") + " " + markup
    line, column = script.count("\n") + 1, len(script) - len(markup) - script.rfind("\n")
    with pytest.raises(ScriptError, match=re.escape(f"{markup!r} in line {line}, column {column}")):
        split_script(script)
