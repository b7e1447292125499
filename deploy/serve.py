"""Start or stop the endpoint on this machine.

python -m deploy.serve start
python -m deploy.serve stop
"""

import argparse
import os
import sys
from pathlib import Path

from deploy.torchserve import MODEL, ServerError, TorchServe
from deploy.watch import start_watch

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "samples" / "photos" / "photographer.jpg"


def start(server: TorchServe) -> None:
    """Start the server, caption a sample image and print the addresses."""
    was_running = server.running()
    server.start()
    if not was_running:
        start_watch(server)
    response = server.caption(SAMPLE)
    sample = os.path.relpath(SAMPLE)
    print(
        f"captioner {response['model']['version']} is ready, model {response['model']['digest'][:19]}\n\n"
        f"  {sample}: {response['caption']}\n\n"
        f"  inference   {server.inference}/predictions/{MODEL}\n"
        f"  management  {server.management}/models/{MODEL}\n"
        f"  metrics     {server.metrics}/metrics\n"
        f"  gRPC        {server.grpc} (inference), {server.grpc_management} (management)\n"
        f"  logs        {os.path.relpath(server.logs)}\n\n"
        f"Caption an image of yours:\n"
        f"  curl -T {sample} {server.inference}/predictions/{MODEL}\n"
        f"Stop the server:\n"
        f"  make stop"
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.serve", description="Start or stop the endpoint on this machine."
    )
    parser.add_argument("action", choices=["start", "stop"])
    parser.add_argument("--config", type=Path, default=ROOT / "config.properties", help="TorchServe properties")
    arguments = parser.parse_args()
    try:
        server = TorchServe(arguments.config, ROOT, ROOT / "logs")
        if arguments.action == "start":
            start(server)
        elif server.stop():
            print("The server has stopped.")
        else:
            print("No server was running that 'make serve' started.")
    except ServerError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
