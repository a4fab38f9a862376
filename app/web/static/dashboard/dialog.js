// A dialog that confirms a change: it describes the effect first, and shows an error afterwards.
import { useEffect, useRef, useState } from "preact/hooks";
import { h, tags } from "./dom.js";
import { SignedOut } from "./session.js";
import { t } from "./words.js";

const { button, dialog, form, div, p, h2 } = tags;

/**
 * `act` makes the change. It returns an error's text, or nothing, which closes the dialog.
 *
 * @param {{ title: string, action?: string, danger?: boolean, wide?: boolean, close: () => void,
 *   act?: (data: FormData) => Promise<string | void>, children?: any }} props
 */
export function Dialog({ title, action, danger, wide, close, act, children }) {
  const place = useRef(/** @type {HTMLDialogElement | null} */ (null));
  const [wrong, setWrong] = useState("");
  const [busy, setBusy] = useState(false);
  useEffect(() => place.current?.showModal(), []);

  const submit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    if (!act || busy) return;
    setBusy(true);
    setWrong("");
    try {
      const said = await act(new FormData(/** @type {HTMLFormElement} */ (event.currentTarget)));
      if (said) setWrong(said);
      else place.current?.close();
    } catch (error) {
      setWrong(error instanceof Error ? error.message : String(error));
    }
    setBusy(false);
  };

  return dialog(
    {
      ref: place, onClose: close, "aria-label": title, class: wide ? "wide" : "",
      // A click on the backdrop has the dialog as its target; clicks inside have the form or its parts.
      onMouseDown: (event) => event.target === place.current && place.current?.close(),
    },
    form(
      { onSubmit: submit },
      h2({}, title),
      h(SignedOut, {}), // a modal dialog covers the page's own
      div({ class: "dialog-body" }, children),
      wrong ? p({ class: "trouble", role: "alert" }, wrong) : null,
      div(
        { class: "buttons" },
        button({ type: "button", onClick: () => place.current?.close() }, act ? t("Not now") : t("Close")),
        act ? button({ type: "submit", class: danger ? "danger" : "primary", disabled: busy }, busy ? t("Working…") : action) : null,
      ),
    ),
  );
}
