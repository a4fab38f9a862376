// Elements as functions, typed as Preact types JSX: `div({ class: "bar" }, child, …)`.
// JSX would need a build step; a type checker does not look into tagged templates.
import { h } from "preact";

/**
 * @typedef {import("preact").ComponentChildren} Children
 * @typedef {import("preact").JSX.IntrinsicElements} Elements
 * @typedef {{ [name: `data-${string}`]: string | number | undefined }} Data
 */

/**
 * @type {{ [Tag in keyof Elements]-?:
 *   (props?: (Elements[Tag] & Data) | null, ...children: Children[]) => import("preact").VNode<any> }}
 */
export const tags = /** @type {any} */ (
  new Proxy(
    {},
    {
      get:
        (_, /** @type {string} */ tag) =>
        (/** @type {any} */ props, /** @type {Children[]} */ ...children) =>
          h(tag, props, ...children),
    },
  )
);
export { h };
