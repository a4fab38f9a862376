// A list that is loaded page by page, and read again from the top when something in it has changed.
import { useEffect, useRef, useState } from "preact/hooks";
import { watch } from "./graphql.js";
import { EXPERIMENTS_CHANGED } from "./operations.js";

const PAGE = 50;
const MOST = 500;
/** Many runs at once write much history: between two readings lie so many milliseconds. */
const APART = 1500;

/**
 * @template Row
 * @typedef {{ totalCount: number, nodes: Row[], pageInfo: { hasNextPage: boolean, endCursor: string | null } }} Page
 */

/**
 * @template Row
 * @param {string} what of which list; another one is loaded from the top
 * @param {(from: { after: string | null, first: number }) => Promise<Page<Row>>} read
 */
export function usePages(what, read) {
  const [rows, setRows] = useState(/** @type {Row[]} */ ([]));
  const [total, setTotal] = useState(/** @type {number | null} */ (null));
  const [next, setNext] = useState(/** @type {string | null} */ (null));
  const [error, setError] = useState(/** @type {Error | null} */ (null));
  const latest = useRef({ what, read, shown: 0 });
  latest.current = { what, read, shown: rows.length };

  /** @param {string | null} after null: all that is shown, anew */
  async function load(after) {
    const first = after ? PAGE : Math.min(MOST, Math.max(PAGE, latest.current.shown));
    try {
      const page = await latest.current.read({ after, first });
      if (latest.current.what !== what) return;
      setRows((known) => (after ? known : []).concat(page.nodes));
      setTotal(page.totalCount);
      setNext(page.pageInfo.hasNextPage ? page.pageInfo.endCursor : null);
      setError(null);
    } catch (wrong) {
      if (latest.current.what === what) setError(/** @type {Error} */ (wrong));
    }
  }

  useEffect(() => {
    setTotal(null);
    latest.current.shown = 0;
    load(null);
    let timer = 0;
    const again = () => { timer ||= setTimeout(() => { timer = 0; load(null); }, APART); };
    const end = watch(EXPERIMENTS_CHANGED, {}, again, again);
    return () => { clearTimeout(timer); end(); };
  }, [what]);

  return { rows, total, error, again: () => load(null), more: next ? () => load(next) : null };
}
