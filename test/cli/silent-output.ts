/** An output that nobody reads. */
import type { Output } from '../../src/cli/context.ts'

export const SILENT: Output = {
  write: () => Promise.resolve(),
  isTty: false,
  columns: () => undefined,
  rows: () => undefined,
  style: { colour: false, unicode: false },
  onResize: () => undefined,
}
