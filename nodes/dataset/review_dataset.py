"""Review Dataset: the gallery."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .. import sockets
from ..host.dataset.gallery import revision_of, show
from ..host.events import send_event


class ReviewDataset(io.ComfyNode):
    """Pictures and captions to look through and edit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_ReviewDataset",
            display_name="Review Dataset",
            category="pivotal/dataset",
            description="Shows images and captions in a gallery where captions can be edited in "
            "place. Edits are saved and passed on; the files are not changed.",
            search_aliases=["edit captions", "dataset gallery", "caption editor", "tag editor"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                sockets.Dataset.Input("dataset", tooltip="Images to review."),
                io.String.Input(
                    "review",
                    default="",
                    tooltip="Set by the gallery: which edits have been seen. The edits themselves "
                    "are never saved in the workflow.",
                    extra_dict={"hidden": True},
                ),
                io.Boolean.Input(
                    "stop_until_approved",
                    default=False,
                    tooltip="Stop here until you have reviewed the gallery and pressed Approve.",
                ),
            ],
            outputs=[
                sockets.Dataset.Output(display_name="dataset"),
                io.String.Output(display_name="captions", is_output_list=True),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, review: str, **inputs: Any) -> int:
        return revision_of(review.partition("@")[0])

    @classmethod
    def execute(cls, dataset: Any, review: str, stop_until_approved: bool) -> io.NodeOutput:
        identity, edited, revision = show(dataset)
        if stop_until_approved and not review.endswith("+approved"):
            # The gallery needs to know what to show although the run ends here.
            cls.announce(identity, revision)
            raise ValueError(
                f"{dataset.name} is waiting for review: look through the gallery, press Approve "
                "and queue the graph again."
            )
        captions = [record.caption for record in edited.records]
        shown = {"review": [{"dataset": identity, "revision": revision}]}
        return io.NodeOutput(edited, captions, ui=shown)

    @classmethod
    def announce(cls, identity: str, revision: int) -> None:
        """Tell the page which dataset waits on which node."""
        node = cls.hidden.unique_id if cls.hidden else None
        send_event("review", {"node": node, "dataset": identity, "revision": revision})


NODES = [ReviewDataset]
