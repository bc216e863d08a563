/** A range of an open file, whole. */
import { MeshError } from '../../base/errors.ts'
import { readAt } from '../../files/file-io.ts'

/** Throws MESH0502 when the file ends before. */
export async function readRange(
  file: number,
  offsetBytes: number,
  lengthBytes: number,
): Promise<Uint8Array> {
  const buffer = Buffer.allocUnsafe(lengthBytes)
  for (let at = 0; at < lengthBytes;) {
    const count = await readAt(file, buffer.subarray(at), offsetBytes + at)
    if (count === 0)
      throw new MeshError('MESH0502', `a partial blob ends at ${offsetBytes + at} bytes`)
    at += count
  }
  return buffer
}
