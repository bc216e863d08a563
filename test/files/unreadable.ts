/** Reads the directory of its argument as an image, strictly and not, and tells what came of it. */
import { MeshError } from '../../src/base/errors.ts'
import { hashingSink } from '../../src/files/ingest.ts'
import { LeftOut } from '../../src/files/image/left-out.ts'
import { readDirectory } from '../../src/files/image/read-directory.ts'

const root = process.argv[2] ?? ''
const sink = hashingSink(() => undefined)
const told: { code?: string; hints?: readonly string[]; counts?: unknown } = {}
try {
  await readDirectory({ sink, leftOut: new LeftOut() }, root, { skipsUnreadable: false })
} catch (error) {
  if (!(error instanceof MeshError)) throw error
  told.code = error.code
  told.hints = error.hints
}
const leftOut = new LeftOut()
await readDirectory({ sink, leftOut }, root, { skipsUnreadable: true })
told.counts = leftOut.counts
process.stdout.write(JSON.stringify(told))
