"""What is found in a text as sensitive, and what is not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import phonenumbers
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memos_core import InvalidInput
from memos_core.sensitivity import (
    Action,
    Finding,
    Sensitive,
    ValuesVerdict,
    Verdict,
    dialling,
    find,
    judge,
    judge_values,
    redact,
)

EMAIL, PHONE, CARD, IBAN, SECRET = (
    Sensitive.EMAIL,
    Sensitive.PHONE,
    Sensitive.CARD,
    Sensitive.IBAN,
    Sensitive.SECRET,
)
LONGEST = 65_536  # characters of one cube


def joined(*parts: str) -> str:
    """Put a secret together here: whoever scans this repository for secrets should find none."""
    return "".join(parts)


BODY = "aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3zA5"  # 36 characters
GITLAB = joined("gl", "pat-", BODY[:20])
TOKENS = [
    GITLAB,
    joined("AK", "IA", "IOSFODNN7EXAMPLE"),
    joined("AS", "IA", "IOSFODNN7EXAMPLE"),
    joined("AB", "IA", "IOSFODNN7EXAMPLE"),
    joined("AC", "CA", "IOSFODNN7EXAMPLE"),
    *(joined("gh", form, "_", BODY) for form in "pousr"),
    joined("gh", "s_", "12345_", "eyJ", "hbGciOiJI.", "eyJ", "zdWIiOiIx.s-1g"),
    joined("github", "_pat_", BODY[:22], "_", BODY, BODY[:23]),
    joined("gl", "pat-", BODY[:27], ".01.0w1234567"),
    joined("gl", "rt-", "t1_", BODY[:20]),
    joined("xo", "xb-", "123456789012-1234567890123-", BODY[:24]),
    joined("xo", "xe.", "xo", "xp-", "1-", BODY),
    joined("xa", "pp-", "1-A0123-456-", BODY),
    joined("sk", "-", BODY, "x1"),
    joined("sk", "-proj-", BODY, "-", BODY[:20], "_", BODY[:5]),
    joined("sk", "-ant-", "api03-", BODY, "-", BODY, "AA"),
    joined("sk", "_live_", BODY[:24]),
    joined("rk", "_test_", BODY[:24]),
    joined("wh", "sec_", BODY[:32]),
    joined("AI", "za", "Sy", BODY[:32], "-"),
    joined("h", "f_", BODY[:34]),
    joined("eyJ", "hbGciOiJIUzI1NiJ9.", "eyJ", "zdWIiOiIxMjM0In0.", "dozjgNryP4J3jVmNHl0w5N-_"),
    joined("eyJ", "hbGciOiJub25lIn0.", "eyJ", "zdWIiOiIxMjM0In0."),
]
BEGIN = joined("-----BEGIN ", "PRIVATE KEY-----")
END = joined("-----END ", "PRIVATE KEY-----")
LINE = joined(BODY, BODY)[:64]
KEYS = [
    f"{BEGIN}\n{LINE}\n{LINE}\nAB==\n{END}",
    f"{BEGIN}\\n{LINE}\\n{END}",
    f"{BEGIN}{END}",
    f"{BEGIN}\n{LINE}\n{LINE}",  # cut off
    f"{BEGIN}\\n{LINE}\\n{LINE}",
    f"{BEGIN} x {BEGIN} x {END}",
    *(
        key.replace("PRIVATE", f"{form} PRIVATE")
        for form in ("RSA", "EC", "ENCRYPTED", "OPENSSH")
        for key in [f"{BEGIN}\nProc-Type: 4,ENCRYPTED\nDEK-Info: DES-EDE3-CBC,0\n\n{LINE}\n{END}"]
    ),
    f"{BEGIN}\n\n{LINE}\n=abcd\n{END}".replace("PRIVATE KEY", "PGP PRIVATE KEY BLOCK"),
]

# What is to be found stands in ⟨…⟩.
EMAILS = [
    "write to ⟨ann@example.com⟩.",
    "⟨a.b-c_d+tag@sub.example.co.uk⟩, please",
    "Ann <⟨ann@example.com⟩>; Bob (⟨bob@example.org⟩)",
    "mailto:⟨ann@example.com⟩?subject=hi",
    "'⟨ann@example.com⟩' **⟨ann@example.com⟩** “⟨ann@example.com⟩”",
    "⟨o'brien@example.ie⟩",
    "⟨ANN@EXAMPLE.COM⟩",
    "⟨4111111111111111@example.com⟩",
    "⟨123@example.com⟩",
    "⟨ann@xn--bcher-kva.xn--p1ai⟩",
    "⟨ann@example.museum⟩/about",
    "⟨ann@example.com⟩-2024",
    "⟨ann@example.com⟩_",
    "⟨a@b.com⟩.⟨x@c.com⟩",
    "⟨müller@bücher.example⟩",
    "⟨иван@почта.рф⟩ и ⟨nguyễn@example.com⟩",
    "⟨用户@例子.中国⟩ ⟨दिल्ली@उदाहरण.भारत⟩ ⟨δοκιμή@παράδειγμα.ελ⟩",
    "联系⟨ann@example.com⟩请回复",
    "联系⟨12345@example.com⟩。",
    "メールは⟨ann@example.com⟩です",
    "⟨ann@example.com⟩으로 보내세요",
    "⟨用户@example.com⟩",
    "⟨ann@例子.中国⟩",
    "⟨ann@例子.中国⟩4111",
    "⟨ann@example.comé⟩",
    "⟨ａｎｎ＠ｅｘａｍｐｌｅ．ｃｏｍ⟩",
    "⟨ann@exa\u0301mple.com⟩",
]
PHONES = [
    "call ⟨+1 415 555 0123⟩ now",
    "⟨+14155550123⟩,⟨+14155550124⟩;⟨+1-415-555-0125⟩",
    "tel:⟨+1-415-555-0123⟩",
    "⟨+1 (415) 555-0123⟩",
    "⟨+1.415.555.0123⟩",
    "⟨(+49) 30 1234567⟩",
    "⟨+49 (0)30 1234567⟩",
    "⟨+44 20 7946 0018⟩ or ⟨+442079460018⟩",
    "⟨+33 6 12 34 56 78⟩",
    "⟨+91 98765 43210⟩",
    "⟨+49 30/1234567⟩",
    "⟨+1 415 555 0123 ext. 55⟩!",
    "⟨+1 415 555 0123x55⟩",
    "⟨+1 415 555 0123⟩ ext. 55b",
    "⟨+1 415 555 0123⟩ ⟨+1 415 555 0124⟩",
    "⟨+1 415 555 0123⟩⟨+1 415 555 0124⟩",
    "⟨+49 30 1234567⟩ 2024-01-15",
    "電話⟨+81 3-1234-5678⟩です",
    "⟨＋４９ ３０ １２３４５６７⟩",
    "⟨+٤٩ ٣٠ ١٢٣٤٥٦٧⟩",
    "⟨+49\u00a030\u20111234567⟩",
]
CARDS = [
    "⟨4111 1111 1111 1111⟩",
    "⟨4111-1111-1111-1111⟩.",
    "card:⟨4111111111111111⟩,12/27",
    "⟨4222222222222⟩",  # 13 digits
    "⟨4111 1111 1111 1111⟩ 123",
    "⟨4000000000000000006⟩",  # 19 digits
    "⟨4000 0000 0000 0000 006⟩",
    "⟨5555555555554444⟩ ⟨2223003122003222⟩ ⟨2720990000000007⟩",
    "⟨378282246310005⟩ ⟨3714 496353 98431⟩",
    "⟨30569309025904⟩ ⟨3056 930902 5904⟩ ⟨36227206271667⟩",
    "⟨6011 1111 1111 1117⟩ ⟨6505555555555556⟩ ⟨6445644564456445⟩",
    "⟨3530111333300000⟩ ⟨6200000000000005⟩ ⟨6304000000000000⟩ ⟨676123456789018⟩ ⟨2200000000000053⟩",
    "⟨6521111111111110⟩ ⟨5085000000000007⟩ ⟨9792030000000000⟩ ⟨6055555555555550⟩",
    "⟨8171999999999997⟩",
    "1234 ⟨4111 1111 1111 1111⟩",
    "⟨4111 1111 1111 1111⟩ ⟨5555 5555 5555 4444⟩",
    "卡号⟨4111111111111111⟩。",
    "⟨４１１１ １１１１ １１１１ １１１１⟩",
    "⟨٤١١١١١١١١١١١١١١١⟩",
    "⟨4111\u00a01111\u00a01111\u00a01111⟩ ⟨4111\u20111111\u20111111\u20111111⟩",
]
IBANS = [
    "⟨DE89 3704 0044 0532 0130 00⟩",
    "⟨de89370400440532013000⟩.",
    "⟨de89 3704 0044 0532 0130 00⟩ please",
    "IBAN:⟨GB82WEST12345698765432⟩",
    "⟨GB82-WEST-1234-5698-7654-32⟩",
    "⟨BE68 5390 0754 7034⟩ fine",  # a bank that is in no list any more
    "⟨NO93 8601 1117 947⟩",
    "⟨FR14 2004 1010 0505 0001 3M02 606⟩",
    "⟨MT84 MALT 0110 0001 2345 MTLC AST0 01S⟩",
    "账号⟨DE89370400440532013000⟩请",
    "⟨ＤＥ８９ ３７０４ ００４４ ０５３２ ０１３０ ００⟩",
    "⟨DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000⟩",
]
SECRETS = [
    *(f"see ⟨{secret}⟩, please" for secret in [*TOKENS, *KEYS]),
    f"密钥⟨{TOKENS[1]}⟩。",
    f"{BEGIN}\n{END}".join(["⟨", "⟩"]) + f"⟨{GITLAB}⟩",
    "postgres://⟨bob:hunter2⟩@db.example.com/app",
    "redis://⟨:secret⟩@host:6379",
    "https://⟨ann@example.com:a@b⟩@host/x",
    "amqp://⟨u:p%40ss⟩@host?x=1",
    "password = ⟨hunter2⟩",
    "password: ⟨Tr0ub4dor&3⟩.",
    "PASSWORD=⟨P@ssword!⟩",
    "my wifi password is ⟨Sunflower1!⟩",
    "The passphrase was: ⟨c0rrect-horse⟩",
    "API_KEY=⟨abc123def456⟩",
    "api key: '⟨x9f8e7d6c5⟩'",
    "aws_secret_access_key = ⟨wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY⟩",
    'config["secret"] = "⟨a1b2c3d4e5⟩"',
    '{"password": "⟨hunter2x⟩", "user": "ann"}',
    '{\\"password\\": \\"⟨hunter2x⟩\\"}',
    "clientSecret => ⟨a1b2c3d4e5⟩;",
    "Authorization: Bearer ⟨abc123def456⟩",
    "https://example.com/?token=⟨abc123def456&user=ann⟩",
    "password: token: ⟨abc123def456⟩",
    f"token={'x1' * 20}{BODY * 3}".replace("=", "=⟨") + "⟩",  # longer than what it is judged by
    "password=⟨$ecret99!⟩",
    "password=⟨hunter2!x⟩[email]",
    "password=⟨pass１word２⟩",
]
FOUND = [
    (kind, marked)
    for kind, texts in {
        EMAIL: EMAILS,
        PHONE: PHONES,
        CARD: CARDS,
        IBAN: IBANS,
        SECRET: SECRETS,
    }.items()
    for marked in texts
]


@pytest.mark.parametrize(("kind", "marked"), FOUND)
def test_it_is_found(kind: Sensitive, marked: str) -> None:
    text, expected = unmarked(marked)
    assert [(one.kind, text[one.start : one.end]) for one in find(text)] == [
        (kind, word) for word in expected
    ]


def unmarked(marked: str) -> tuple[str, list[str]]:
    first, *others = marked.split("⟨")
    pieces = [other.split("⟩") for other in others]
    return first + "".join(word + rest for word, rest in pieces), [word for word, _ in pieces]


@pytest.mark.parametrize(
    ("region", "marked"),
    [
        ("US", "⟨415 555 0123⟩ ⟨(415) 555-0123⟩ ⟨415-555-0123⟩"),
        ("US", "⟨4155550123⟩/⟨1-415-555-0123⟩"),
        ("US", "⟨415-555-0123x123⟩ ⟨415-555-0124 ext. 5⟩"),
        ("US", "⟨011 44 20 7946 0018⟩"),
        ("US", "2024-01-15 ⟨415 555 0123⟩"),
        ("US", "⟨+44 20 7946 0018⟩ ⟨(+44) 20 7946 0018⟩"),
        ("GB", "⟨020 7946 0018⟩ ⟨44 20 7946 0018⟩"),
        ("DE", "⟨030 1234567⟩, ⟨030/1234567⟩, ⟨0049 30 1234567⟩, ⟨+49 30 1234567⟩"),
        ("DE", "12 34 ⟨030 1234567⟩"),
        ("US", "12 ⟨(415) 555-0123⟩"),
        ("FR", "⟨06 12 34 56 78⟩ ⟨06.12.34.56.79⟩ ⟨06 12 34 05 80⟩"),
        ("IN", "⟨98765 43210⟩"),
        ("IT", "⟨06 1234 5678⟩"),
        ("AR", "⟨011 15 2345-6789⟩"),
        ("BR", "⟨0 15 11 98765-4321⟩"),
        ("DK", "⟨20 12 34 56⟩"),
        ("JP", "電話⟨０３－１２３４－５６７８⟩"),
    ],
)
def test_national_phone_numbers_are_found_in_their_region(region: str, marked: str) -> None:
    text, expected = unmarked(marked)
    found = find(text, region=region)
    assert [text[one.start : one.end] for one in found] == expected
    assert {one.kind for one in found} == {PHONE}
    if "+" not in text:
        assert find(text) == []


@pytest.mark.parametrize("region", ["", "us", "XX", "USA", "001"])
def test_an_unknown_region_is_refused(region: str) -> None:
    with pytest.raises(InvalidInput, match="is no region with phone numbers"):
        find("nothing", region=region)


HARMLESS = [
    "",
    " \n\t",
    "nothing to see here",
    # dates, times, numbers
    "2024-01-15",
    "2024-01-15T10:30:00+01:00",
    "2024-01-15 10:30:00",
    "15.01.2024 and 1/15/2024 and 2024/01/15",
    "20240115",
    "in 1984 and 2001",
    "2 0 1 2 3 4 5 6",
    "$1,234,567.89 or 1 234 567,89 €",
    "+1,234,567 and +100%",
    "$4155550123 €6502530000 4155550123%",
    "3.14159265 and -0.12345678901234",
    "0.4111111111111111",
    "1699999999999 1699999999999999 1699999999999999999",
    "20231231235959",
    # names of things
    "550e8400-e29b-41d4-a716-446655440000",
    "11111111-1111-1111-1111-111111111111",
    "v1.2.3-rc.1 10.15.7.1234567",
    "192.168.100.200 and 10.0.0.1:8080",
    "d41d8cd98f00b204e9800998ecf8427e",
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "ISBN 978-3-16-148410-0, ISBN 0-306-40615-2",
    "9783161484100",
    "4006381333931 and 4012345678901",  # barcodes
    "4000000000006",  # a barcode that passes for a card of thirteen digits
    "order 4111 1111 1111 1112, order 4111111111111112",
    "order 1234567890123456",
    "INV-4155550123 and #4155550123",
    "490154203237518",  # the number of a phone itself passes Luhn, as cards do
    "1111111111111117",  # and this, but no one issues it
    "41111111111111110000000000",
    "x4111111111111111 4111111111111111y +4111111111111111",
    "DE8937040044053201300 XX89370400440532013000 DE893704004405320130000",
    # addresses of no one
    "user@host, @user, user@, a@b.c, a@.com",
    "git@github.com:org/repo.git",
    "logo@2x.png, react@18.2.0, pkg@1.0.0-beta.rc, @babel/core@7.0.0",
    "ann@example.com4",
    # no secrets
    "password: required",
    "password:",
    "the password is wrong",
    "password: 12345678",
    "max_tokens=4096, token: 512k",
    "secret: we meet at 9",
    "secret: Paris-in-spring",
    "password: ${DB_PASSWORD1} $DB_PASSWORD1 {password1234} <your-password-1> %(password1)s",
    "token=get_token2()",
    "token = module.get_token2(1)",
    "token = self.token2_of_it",
    "token = os.environ['API_TOKEN_1']",
    "password_hash: 5f4dcc3b5aa765d61d8327deb882cf99",
    "https://example.com:8080/@user and http://localhost:3000",
    "postgres://user:${PASSWORD1}@host postgres://user:***@host http://u:<password>@host",
    "risk-averse task-based sk-short disk-ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHI",
    joined("AK", "IA") + "TOOSHORT",
    joined("x", *TOKENS[1]),
    joined(TOKENS[5], "_"),
    "eyJhbGciOiJIUzI1NiJ9",
    f"{BEGIN} is how they begin",
    f"{END} is how they end",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
    # what stands for findings
    *(f"[{kind}]" for kind in Sensitive),
    "password: [secret], https://[secret]@host, [secret]: abc123def456",
    "[phone] [card]@[email]",
    "\ud800 \x00 ² ① ½",
]
WITHOUT_REGION = [  # what is dialled in some region
    "DE89 3704 0044 0532 0130 01",
    "030 1234567, 415 555 0123, 0049 30 1234567",
    "4155550123",
]
REGIONS = [None, "US", "GB", "DE", "FR", "IN", "JP", "DK", "PL", "ES", "BR"]


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("text", HARMLESS)
def test_it_is_harmless(text: str, region: str | None) -> None:
    assert find(text, region=region) == []


@pytest.mark.parametrize("text", WITHOUT_REGION)
def test_no_phone_number_is_found_without_a_country_code_or_a_region(text: str) -> None:
    assert find(text) == []


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("ann@example.com, +1 415 555 0123", "[email], [phone]"),
        ("4111111111111111@example.com", "[email]"),
        (f"https://{TOKENS[5]}@example.com", "https://[secret]@example.com"),
        ("postgres://ann:pw@example.com/db", "postgres://[secret]@example.com/db"),
        (f"{BEGIN}\nann@example.com\n{END}", "[secret]"),
        ("password: ann1@example.com", "password: [secret]"),
        ("DE89 3704 0044 0532 0130 00 4111 1111 1111 1111", "[iban] [card]"),
        ("4111 1111 1111 1111 +49 30 1234567", "[card] [phone]"),
        (f"api_key: {GITLAB}!", "api_key: [secret]"),
    ],
)
def test_the_more_specific_kind_wins(text: str, redacted: str) -> None:
    assert redact(text, find(text)) == redacted


def test_redact_replaces_what_it_is_given_in_any_order() -> None:
    text = "ann@example.com +1 415 555 0123 x"
    email, phone = find(text)
    assert redact(text, [phone, email]) == "[email] [phone] x"
    assert redact(text, [phone]) == "ann@example.com [phone] x"
    assert redact(text, []) == text


ALL = dict.fromkeys(Sensitive, Action.REDACT)


@pytest.mark.parametrize(
    ("actions", "verdict"),
    [
        ({}, Verdict(text="{text}", kinds=(EMAIL, SECRET), refused=())),
        (
            {EMAIL: Action.ALLOW, SECRET: Action.REDACT, CARD: Action.REFUSE},
            Verdict(text="token: [secret] ann@example.com", kinds=(EMAIL, SECRET), refused=()),
        ),
        (
            {EMAIL: Action.REDACT, SECRET: Action.REFUSE},
            Verdict(text="{text}", kinds=(EMAIL, SECRET), refused=(SECRET,)),
        ),
        (
            dict.fromkeys(Sensitive, Action.REFUSE),
            Verdict(text="{text}", kinds=(EMAIL, SECRET), refused=(EMAIL, SECRET)),
        ),
        (ALL, Verdict(text="token: [secret] [email]", kinds=(EMAIL, SECRET), refused=())),
    ],
)
def test_a_verdict_names_what_is_found_and_refused(
    actions: Mapping[Sensitive, Action], verdict: Verdict
) -> None:
    text = "token: abc123def456 ann@example.com"
    found = judge(text, actions)
    assert found.text == verdict.text.replace("{text}", text)
    assert (found.kinds, found.refused) == (verdict.kinds, verdict.refused)


def test_a_harmless_text_is_kept() -> None:
    assert judge("tea", ALL) == Verdict(text="tea", kinds=(), refused=())


def test_a_region_counts_in_verdicts() -> None:
    assert judge("415 555 0123", ALL).kinds == ()
    assert judge("415 555 0123", ALL, region="US").text == "[phone]"
    assert judge_values(["415 555 0123"], ALL, region="US").values == ["[phone]"]


def test_texts_in_values_are_judged_and_keys_left_alone() -> None:
    values = {
        "ann@example.com": "ann@example.com",
        "many": ["x", {"deep": ["+1 415 555 0123", 4111111111111111, None, True, 1.5]}],
        "pair": ("ann@example.com", "x"),
    }
    before = repr(values)
    assert judge_values(values, ALL) == ValuesVerdict(
        values={
            "ann@example.com": "[email]",
            "many": ["x", {"deep": ["[phone]", 4111111111111111, None, True, 1.5]}],
            "pair": ["[email]", "x"],
        },
        kinds=(EMAIL, PHONE),
        refused=(),
    )
    assert repr(values) == before


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("ann@example.com", "[email]"),
        ("x", "x"),
        (None, None),
        (1, 1),
        ({}, {}),
        ([], []),
        ({"password": "hunter2"}, {"password": "[secret]"}),
        ({"db": {"API-Key": "abc123def456"}}, {"db": {"API-Key": "[secret]"}}),
        ({"password": "required"}, {"password": "required"}),
        ({"password": "[secret]"}, {"password": "[secret]"}),
        ({"secret": "see ann@example.com"}, {"secret": "see [email]"}),
        ({"secret": "we met 3 friends"}, {"secret": "we met 3 friends"}),
        ({"password_hint": "abc123def456"}, {"password_hint": "abc123def456"}),
        ({3: "hunter2", "password": 3}, {3: "hunter2", "password": 3}),
    ],
)
def test_values_are_kept_as(value: object, kept: object) -> None:
    assert judge_values(value, ALL).values == kept


def test_refused_values_stay_as_they_were() -> None:
    values = ["+1 415 555 0123", "ann@example.com", {"password": "hunter2"}]
    verdict = judge_values(values, {PHONE: Action.REDACT, SECRET: Action.REFUSE})
    assert verdict == ValuesVerdict(values=values, kinds=(EMAIL, PHONE, SECRET), refused=(SECRET,))


def test_values_may_nest_without_limit() -> None:
    values: Any = "ann@example.com"
    for _ in range(5_000):
        values = [{"a": values}]
    kept = judge_values(values, ALL)
    assert kept.kinds == (EMAIL,)
    inner: Any = kept.values
    while not isinstance(inner, str):
        inner = inner[0]["a"]
    assert inner == "[email]"


PIECES = [
    *(word for _, marked in FOUND for word in unmarked(marked)[1]),
    *("030 1234567", "415 555 0123", "(415) 555-0123", "06 12 34 56 78", "0049 30 1234567"),
    *HARMLESS,
    *("password=", "token: ", "bearer ", "secret is ", "https://", "u:p@", "://u:pw1@host", "get("),
    *("x123", " ext. 5", "-----", BEGIN, END, LINE, "ISBN", "git@", "@", "+", "(", ")", "/", "."),
    *(" ", "-", "_", ",", ":", "=", '"', "'", "\n", "[", "]", "{", "<", "#", "%", "1", "12", "a"),
    *("中", "é", "１", "\u00a0", "\u200b"),
]
texts = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=12).map("".join)
digits = st.text("0123456789 -./()+x４", max_size=80)
regions = st.sampled_from(REGIONS)


@given(texts | digits | st.text(st.characters(codec=None)), regions)
@example("[secret]: abc123def456", None)
@example(f"{BEGIN}{END}{GITLAB}", None)
@example("bearer abc123def456get(4111 1111 1111", "DK")
@example("+1 415 555 0123 ext. 5 030 1234567", "IT")
@example("ann@例子.中国4111111111111111", None)
@example("a@b.com.x@c.com", None)
@example("https://u:x+1 415 555 0123!@host", None)
@example("030 1234567 030 1234567 030 1234567", "DE")
def test_a_redacted_text_has_no_findings(text: str, region: str | None) -> None:
    found = find(text, region=region)
    positions = [0, *(place for one in found for place in (one.start, one.end)), len(text)]
    assert positions == sorted(positions)
    assert all(one.start < one.end for one in found)

    redacted = redact(text, found)
    assert find(redacted, region=region) == []
    for one in reversed(found):
        text = f"{text[: one.start]}[{one.kind}]{text[one.end :]}"
    assert redacted == text


@given(texts.filter(str.isascii), regions)
def test_wide_characters_are_seen_as_the_plain_ones(text: str, region: str | None) -> None:
    wide = "".join(chr(ord(one) + 0xFEE0) if "!" <= one <= "~" else one for one in text)
    assert find(wide, region=region) == find(text, region=region)


@given(texts, regions, st.dictionaries(st.sampled_from(Sensitive), st.sampled_from(Action)))
def test_a_verdict_keeps_or_refuses(
    text: str, region: str | None, actions: dict[Sensitive, Action]
) -> None:
    verdict = judge(text, actions, region=region)
    kinds = {one.kind for one in find(text, region=region)}
    assert list(verdict.kinds) == [kind for kind in Sensitive if kind in kinds]
    assert set(verdict.refused) == {kind for kind in kinds if actions.get(kind) == Action.REFUSE}
    hidden = {kind for kind in kinds if actions.get(kind) == Action.REDACT}
    assert (verdict.text == text) == bool(verdict.refused or not hidden)
    values = judge_values([[text]], actions, region=region)
    assert values == ValuesVerdict(
        values=[[verdict.text]], kinds=verdict.kinds, refused=verdict.refused
    )


HOSTILE = [
    *(
        "1",
        "0",
        "12",
        "1 ",
        "1-",
        "1/",
        "1.",
        "(1)",
        "1234 ",
        "0250 ",
        "9876543210",
        "+",
        "+1",
        "((",
    ),
    *("030 1234567 ", "415 555 0123 ", "+1234567 ", "+49 30 1234567 ", "+1 415 555 0123x1 "),
    *(
        "@",
        "a",
        "a.",
        ".-",
        "-",
        "--a",
        "a@",
        "@a.",
        "a.b@",
        "a@b.co ",
        "x@b.com.y",
        "é@",
        "漢@",
        "漢a",
    ),
    *("4111 ", "4111-", "4111 1111 1111 1111 ", "2345 ", "DE89 ", "de11", "BE68 5390 0754 7034 "),
    *("eyJ", "eyJ.", "-eyJ", "eyJhbGciOi.", "sk-", "sk-proj-", "xoxb-", "AKIA", "AIza", "ghp_a"),
    *("://", "://a:", "a://b:c", "a://b:c@", "password=", "password is ", 'password="', "bearer "),
    *(
        "token=token:",
        "password=abc1234",
        "[email]",
        "password=[email]",
        "ISBN",
        "978-",
        "1.1.1.1.",
    ),
    *(BEGIN, f"{BEGIN}{LINE}\n", END, f"{BEGIN} {END}", " ", "\n", "\\n", "１", "\u200b1"),
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_the_longest_hostile_text_is_found_through(piece: str) -> None:
    """A search that was not linear would take minutes here, not a fraction of a second."""
    text = (piece * (LONGEST // len(piece) + 1))[:LONGEST]
    found = find(text)
    assert find(redact(text, found)) == []


@pytest.mark.parametrize(
    "piece", ["1", "12 ", "1234 ", "0250 ", "1/", "415 555 0123 ", "+1234567 "]
)
@pytest.mark.parametrize("region", ["US", "JP"])
def test_the_longest_hostile_text_is_found_through_in_a_region(piece: str, region: str) -> None:
    text = (piece * (LONGEST // len(piece) + 1))[:LONGEST]
    found = find(text, region=region)
    assert find(redact(text, found), region=region) == []


@pytest.fixture
def matched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the matcher of phone numbers is given to read."""
    given: list[str] = []
    matcher = phonenumbers.PhoneNumberMatcher

    def spy(text: str, *args: Any, **options: Any) -> phonenumbers.PhoneNumberMatcher:
        given.append(text)
        return matcher(text, *args, **options)

    monkeypatch.setattr(dialling, "PhoneNumberMatcher", spy)
    return given


@pytest.mark.parametrize(
    "piece",
    ["1", "12 ", "1234 ", "+12345678901234567890 ", "1/", "+", "we met 3 friends at 9:30. "],
)
def test_the_slow_matcher_reads_nothing_that_cannot_be_a_number(
    matched: list[str], piece: str
) -> None:
    for region in (None, "US"):
        find(piece * 1_000, region=region)
    assert matched == []


def test_the_slow_matcher_reads_short_stretches_only(matched: list[str]) -> None:
    text = (
        "a" * 10_000 + " +1 415 555 0123 " + "1234567 " * 1_000 + "and 030 1234567, +49 30 1234567"
    )
    found = find(text, region="DE")
    assert [text[one.start : one.end] for one in found] == [
        "+1 415 555 0123",
        "030 1234567",
        "+49 30 1234567",
    ]
    assert 3 <= len(matched) < 20
    assert max(map(len, matched)) < 50


def test_libraries_are_loaded_when_a_text_needs_them() -> None:
    code = (
        "import sys\n"
        "from memos_core.sensitivity import find\n"
        "find('ann@example.com met 3 friends at 9:30, password: hunter2')\n"
        "assert not {'stdnum', 'phonenumbers'} & set(sys.modules)\n"
        "find('4111111111111111 +1 415 555 0123')\n"
        "assert {'stdnum', 'phonenumbers'} <= set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_finding_is_a_value() -> None:
    assert find("x ann@example.com") == [Finding(kind=EMAIL, start=2, end=17)]
