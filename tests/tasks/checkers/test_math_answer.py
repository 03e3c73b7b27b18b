import json
import subprocess
import sys

from keras_aha.tasks.checkers import child_program
from keras_aha.tasks.checkers.make_checker import make_checker

import pytest
from verdict_tables import HOSTILE, other_verdicts, read_table

ROWS = read_table(r"""
\frac{1}{2}
    correct \frac{1}{2} ¦ \frac12 ¦ \dfrac{1}{2} ¦ 1/2 ¦ 0.5 ¦ .5 ¦ $\frac{1}{2}$ ¦ \(\frac{1}{2}\)
    correct \boxed{\frac{1}{2}} ¦ 2/4 ¦ 2^{-1} ¦ x = \frac{1}{2} ¦ **1/2** ¦ \sin\frac{\pi}{6} ¦ \frac{1}{2}.
    correct \left(\frac{1}{2}\right) ¦ \frac{\sqrt{4}}{4} ¦ $$\frac{1}{2}$$. ¦ 1 - \frac{1}{2} ¦ \frac{1}{2} \text{ cm}
    correct 0.50 ¦ \displaystyle\frac12
    wrong_value \frac{1}{3} ¦ 2 ¦ -\frac{1}{2} ¦ 0.51 ¦ 1 ¦ \frac{1}{2} or \frac{1}{3} ¦ \frac{1}{2}, \frac{1}{3}
    wrong_value \{\frac{1}{2}, 1\} ¦ x ¦ (\frac{1}{2}, 1) ¦ \pm\frac{1}{2} ¦ \boxed{\frac{1}{2}} \boxed{\frac{1}{3}}
    wrong_value \frac{1}{2} \text{ or } 2 ¦ $\frac12$ and $2$ ¦ 0=0 ¦ \emptyset ¦ [0, \frac{1}{2}] ¦ x < \frac{1}{2}
    not_readable \frac{1}{ ¦ \frac ¦ ½½½\ ¦ \begin{pmatrix} 1
2\sqrt{3}
    correct 2\sqrt{3} ¦ \sqrt{12} ¦ 2\sqrt3 ¦ \sqrt{3}\cdot 2 ¦ 2 \times \sqrt{3} ¦ \frac{6}{\sqrt{3}} ¦ 12^{1/2}
    correct 2\cdot 3^{\frac{1}{2}}
    wrong_value 3\sqrt{2} ¦ \sqrt{6} ¦ 3.46 ¦ 2\sqrt[3]{3}
[0, 1)
    correct [0,1) ¦ \left[0, 1\right) ¦ x \in [0,1) ¦ 0 \le x < 1
    wrong_value (0,1) ¦ [0,1] ¦ (0,1] ¦ [0,2) ¦ \{0, 1\} ¦ 0 < x < 1
\{1, 2, 3\}
    correct \{1,2,3\} ¦ 3, 2, 1 ¦ 1, 2, 3 ¦ \{3,1,2\} ¦ 1, 2 and 3 ¦ x \in \{1,2,3\}
    wrong_value \{1,2\} ¦ 1,2,3,4 ¦ (1,2,4) ¦ 6 ¦ 1
(x+1)^2
    correct x^2+2x+1 ¦ (x+1)(x+1) ¦ (1+x)^{2} ¦ 1 + x(x+2)
    wrong_value x^2+1 ¦ (y+1)^2 ¦ 4
\text{Tuesday}
    correct Tuesday ¦ \text{tuesday} ¦ \mathrm{Tuesday} ¦ \boxed{\text{Tuesday}}
    wrong_value \text{Monday} ¦ Monday
\begin{pmatrix} 1 \\ 2 \end{pmatrix}
    correct \begin{pmatrix}1\\2\end{pmatrix} ¦ \begin{bmatrix} 1 \\ 4/2 \end{bmatrix}
    wrong_value \begin{pmatrix}2\\1\end{pmatrix} ¦ \begin{pmatrix} 1 & 2 \end{pmatrix}
""")
ROWS += [("1", " \n", "no_answer"), ("1", "1" + "+0" * 500, "too_long"), ("[0, 1)", "$\n[0,\n1)\n$", "correct")]
# Whole answers in tests/ of github.com/huggingface/Math-Verify, commit 5d148cf (2025-07-02): gold ≡ prediction.
PUBLISHED = r"""
7425000 ≡ 7,425,000 ¦ 1000 ≡ 1000.0 ¦ 1000.0 ≡ 1,000.0 ¦ 0.4 ≡ .4 ¦ 1000.99 ≡ 1,000.99 ¦ 1000.99 ≡ $1,000.99
1000.99 ≡ 1,000.99$ ¦ 0,111 ≡ 0.111 ¦ 10/9 ≡ \frac{10}{9} ¦ -10/9 ≡ -\frac{10}{9} ¦ $[0,9)$ ≢ $[0,1)$
$(0,9)$ ≢ $[0,9)$ ¦ $1$ ≢ $-[0,1)$ ¦ $1$ ≡ $\frac3{3} $ ¦ $1$ ≡ $k=1$ ¦ $1/3$ ≡ $\frac13 $ ¦ $1/3$ ≡ $\cfrac{1}{3} $
$1/3$ ≡ $\dfrac{1}{3} $ ¦ $1/3$ ≡ $\tfrac{1}{3} $ ¦ $1/3$ ≡ $ 1/3 $ ¦ $1/3$ ≡ $\left( \frac{1}{3} \right)$
$1/3$ ≡ $\boxed{\frac{1}{3}}$ ¦ $1/3$ ≡ $\frac{1}{3} \text{meters}$ ¦ $1/3$ ≡ $\frac{1}{3} \textbf{meters}$
$1/3$ ≡ $k = \frac{1}{3}$ ¦ $1/3$ ≡ $x=1/3\approx1.3$ ¦ $\sqrt{3}$ ≡ $\sqrt3 $ ¦ $28\%$ ≡ 28 percent ¦ $28\%$ ≡ 28 pct
$28\%$ ≡ 28 % ¦ $28\%$ ≡ $28$ % ¦ $28\%$ ≡ $28$ percent ¦ $28\%$ ≡ $\boxed{28}$ pct ¦ $28\%$ ≡ $\boxed{28 pct}
$28\%$ ≡ $\boxed{28 percent} ¦ $28\%$ ≡ $\boxed{28 percentage} ¦ $x \leq 5$ ≡ $5 \geq x$ ¦ $x \geq 5$ ≡ $5 \leq x$
$x = 11$ ≡ $x = 5+5+1 = 7 =11$ ¦ $7 = 11a+c$ ≢ $11a+c$ ¦ $x = 1/3$ ≡ $x = 5+5+1 = 1/3 \approx 11$ ¦ $11$ ≡ $x=11$
$11$ ≡ $x\approx11$ ¦ $x < 1$ ≡ $-x > -1$ ¦ $x < 1$ ≢ $x > -1$ ¦ $x <= 1$ ≡ $-x >= -1$ ¦ $a +3z = 0$ ≢ $0$
$1 = \zzz = x = 0$ ≡ $0$ ¦ $2x + z = 1$ ≢ $1$ ¦ $a^2 + b = 0$ ≢ $0$ ¦ $k=1$ ≡ $1$ ¦ $z = 1 + 1 = 2$ ≡ $z = 3+3 = 2$
$2x+4y-3=0$ ≡ $y=-\frac{1}{2}x+\frac{3}{4}$ ¦ $x^2/4 + y^2/3 = 1$ ≡ $x^2/16 + y^2/12 = 1/4$
$\frac{1}{12}$ ≡ $0.0833333333333333$ ¦ $(1,\frac{9}{2})$ ≡ $(1,4.5)$ ¦ $\frac{x+2}{7}$ ≡ $\frac{x}{7}+\frac{2}{7}$
$\tan^2(y)+1$ ≡ $\sec^2(y)$ ¦ $34x+45y-20z+100=0$ ≡ $-34x-45y+20z-100=0$ ¦ $(a+5)(b+2)$ ≢ $(+5)(b+2)$
$2$ ≢ $\frac{1+\sqrt{5}}{2}$ ¦ $4$ ≢ $\frac{34}{16}+\frac{\sqrt{1358}}{16}$ ¦ $4$ ≢ $4\sqrt{2}$ ¦ $1\sqrt{19}$ ≢ $1$
$x+2n+1$ ≢ $x+1$ ¦ $(3,1)$ ≢ ${1,3}$ ¦ $(1,3)$ ≡ ${1,3}$ ¦ \(\boxed{\text{C}}\). ≡ $\boxed{\text{(C)}}.$
$\text{E}$ ≡ $E$ ¦ $\boxed{1}\boxed{2}$ ≡ $\boxed{1,2}$ ¦ $-2 \\le x \\le 7$ ≡ $x \in [-2,7]$
$x \in [-2,7]$ ≡ $-2 \\le x \\le 7$ ¦ $(p,q)=(3,2)$ ≡ $(3,2)$ ¦ $(p,q)=(3,2)$ ≡ $\boxed{(3, 2)}$
$-12;-11;-10;-8;-7;-6$ ≡ $\boxed{\{-12, -11, -10, -8, -7, -6\}}$ ¦ $AB=4,CD=5$ ≡ $\boxed{4, 5}$
$(11,7)or(7,11)$ ≡ $\boxed{(7,11),\ (11,7)}$ ¦ $S_{MBCN}:S=7:32$ ≡ $\boxed{7:32}$
$\frac{NO}{BO}=\frac{1}{\sqrt{6}}$ ≡ $\frac{1}{\sqrt{6}}$ ¦ $p=5,q=2;p=7,q=2$ ≡ $(5,2),(7,2)$
$(p,q,r)=(3,2,7)$ ≡ $(3,2,7)$ ¦ $V_{1}:V_{2}=11:21$ ≡ $11:21$ ¦ \(\boxed{1}\) and \(\boxed{-2}\). ≡ $\boxed{-2,1}$.
$\text{odd}$ ≡ $odd$ ¦ $\text{e}$ ≡ $e$ ¦ $d$ ≢ $\text{E}$ ¦ $1$ and $2$ and $3$ ≡ $\boxed{1,2,3}$
\boxed{x = -5,\ p = \frac{14}{3}} ≡ $\boxed{-5, \frac{14}{3}}$ ¦ \boxed{a=4,\,-8,\,-10} ≡ $\boxed{-10,-8,4}$
$21,16$ or $11$ ≡ $21,16,11$ ¦ $0<f(x)<1$ ≡ $(0,1)$ ¦ \(\boxed{6 \text{ and } 8}\) ≡ $\boxed{6,8}$
$\text{Even}$ ≡ $Even$ ¦ $$-793 < a < 10$$ ≡ $$(-793, 10)$$
$$a_3 = 2, a_{37} = 19$$ ≡ $$\boxed{a_{37} = 19, \quad a_3 = 2}$$
$$(2, 2), (1, 3), (3, 3)$$ ≡ $$\boxed{(2, 2), (1, 3), (3, 3)}$$ ¦ $$0.06 \text{ yuan}$$ ≡ $$\boxed{0.06 \text{ yuan}}$$
$$667$$ ≡ $$\boxed{667}$$ ¦ $$6 \text{ and } 8$$ ≡ $$\boxed{6 \text{ and } 8}$$ ¦ $$k \ge 2$$ ≡ $$\boxed{k \ge 2}$$
$${1,2,3}$$ ≡ \boxed{1} and \boxed{2} and \boxed{3} ¦ $${1,2,3}$$ ≡ \boxed{1},\boxed{2},\boxed{3} ¦ $$|AB|=1$$ ≡ $$1$$
$$A:B=1$$ ≡ $$1$$ ¦ $$f(x)=1$$ ≡ $$1$$ ¦ $f(x)$ ≢ $f(y)$ ¦ $n=2, 3, 4$ ≢ $n=1, 2, 3$ ¦ $D = (0, 1)$ ≢ $D = (0, 1.5)$
$19, 46, and 82$ ≡ $19, 46, \text{ and } 82$ ¦ $19, 46, and 82$ ≢ $21, 36, and 82$ ¦ $\pm 2021$ ≢ $2021$
$\pm 2021$ ≡ ${-2021, 2021}$ ¦ $12:00$ ≢ $1:00$
"""


@pytest.fixture(scope="module")
def checker():
    return make_checker("math", {"seconds": 30})


@pytest.mark.slow
def test_verdicts(checker):
    assert other_verdicts(checker, ROWS) == []


@pytest.mark.slow
def test_the_published_cases_of_math_verify(checker):
    cases = [case.strip() for line in PUBLISHED.strip().split("\n") for case in line.split("¦")]
    pairs = {case: case.replace("≢", "≡").split(" ≡ ") for case in cases}
    other = [
        case for case, (gold, text) in pairs.items() if (checker.verdict(text, gold) == "correct") != ("≡" in case)
    ]
    assert len(pairs) > 100 and other == []


@pytest.mark.slow
def test_hostile_texts_end_and_it_works_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hurried = make_checker("math", {"seconds": 0.5})
    towers = ["2^{2^{2^{2^{2^{2}}}}}", "10^{10^{10}}", "(10^9)!", r"\operatorname{zeros}(10^5, 10^5)", "(" * 900]
    assert {hurried.verdict(text, "7") for text in towers} <= {"wrong_value", "not_readable", "too_long", "too_slow"}
    assert hurried.verdict(towers[0], "7") == "too_slow"
    assert {hurried.verdict(text, "7") for text in HOSTILE} <= {"wrong_value", "not_readable", "too_long", "too_slow"}
    assert hurried.verdict(r"\frac{14}{2}", "7") == "correct" and not list(tmp_path.iterdir())


AUDIT = r"""
import json, sys
from keras_aha.tasks.checkers import child_program
answer, sources = child_program._math(), []
sys.addaudithook(lambda event, args: event == "compile" and args[0] and sources.append((str(args[0]), args[1])))
for text in json.loads(sys.argv[1]):
    answer(text, "(x+y)^2=2")
own = [file.endswith(".py") or source.startswith("b'def monomial_") for source, file in sources]
print(len(own) > 0 and all(own) or sources)
"""


@pytest.mark.slow
def test_no_text_reaches_pythons_compiler():
    """It compiles SymPy's own code only, modules and products of powers, of as many symbols as there are."""
    texts = (
        r"0.5 1e5 5\% x_{exit} \text{exit()} \operatorname{eval}(x) __import__('os') x^2=2 (x+y)(y+x)=1+1 \frac{a}{b}"
    )
    child = subprocess.run([sys.executable, "-c", AUDIT, json.dumps(texts.split())], capture_output=True, text=True)
    assert child.stdout == "True\n", child.stdout + child.stderr


@pytest.mark.parametrize("text", "x __import__('os') 1+1 1_0 nan 5_5 Integer(5) 1e99999 . ".split(" "))
def test_sympy_makes_numbers_only(text):
    assert child_program._number(" 0012") == 12 and child_program._number("1.5e1") == 15.0
    with pytest.raises(ValueError):
        child_program._number(text)


def test_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(ValueError, match=r'math-verify is not installed: pip install "keras-aha\[math\]"'):
        make_checker("math", {})
