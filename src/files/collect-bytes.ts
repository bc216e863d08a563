/** A stream as one array, for what is known to be small. */
import { MeshError } from '../base/errors.ts'

/** Throws MESH0211, without reading on, when there is more than `bytesMax`. */
export async function collectBytes(
  source: AsyncIterable<Uint8Array>,
  bytesMax: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const pieces: Uint8Array[] = []
  let size = 0
  for await (const piece of source) {
    size += piece.byteLength
    if (size > bytesMax) throw new MeshError('MESH0211', `received over ${bytesMax} bytes`)
    pieces.push(piece)
  }
  return new Uint8Array(Buffer.concat(pieces))
}
