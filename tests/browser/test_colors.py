"""Each socket type of the pack has a color of its own, which a change of theme does not take."""

from __future__ import annotations

import pytest

from harness.editor.editor import Editor

COLORS = """() => {
    const info = Object.values(LiteGraph.registered_node_types).map(type => type.nodeData ?? {});
    const outputs = info.flatMap(data => data.output ?? []).map(String);
    const types = [...new Set(outputs)].filter(type => type.startsWith("PIVOTAL_")).sort();
    const style = getComputedStyle(document.documentElement);
    return Object.fromEntries(types.map(type => [type, [
        app.canvas.default_connection_color_byType[type],
        LGraphCanvas.link_type_colors[type],
        style.getPropertyValue(`--color-datatype-${type}`),
    ]]));
}"""


def colors(editor: Editor) -> dict[str, list[str]]:
    return editor.page.evaluate(COLORS)


@pytest.mark.usefixtures("new_page")
def test_every_socket_type_has_a_color_of_its_own_in_every_theme(editor: Editor):
    first = colors(editor)
    assert len(first) >= 9
    for type_, three in first.items():
        assert len(set(three)) == 1 and three[0].startswith("#"), (type_, three)
    own = {three[0] for three in first.values()}
    assert len(own) == len(first)
    for theme in ("light", "dark"):
        editor.page.evaluate(
            "theme => app.extensionManager.setting.set('Comfy.ColorPalette', theme)", theme
        )
        editor.page.wait_for_timeout(500)
        assert colors(editor) == first, theme
        editor.shot(f"colors_{theme}")
