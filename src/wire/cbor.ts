/**
 * Canonical dag-cbor: the bytes of everything that is hashed, and the body of every message.
 *
 * dag-cbor has one encoding per value (sorted keys, shortest integers), so re-encoding what was decoded
 * proves that the bytes were canonical.
 */
import * as dagCbor from '@ipld/dag-cbor'
import { z } from 'zod'
import { MeshError, messageOf } from '../base/errors.ts'

/** The largest hashed object (tree, action, result) that is decoded. */
export const OBJECT_BYTES_MAX = 4 * 1024 * 1024

export function encodeCbor(value: unknown): Uint8Array<ArrayBuffer> {
  return new Uint8Array(dagCbor.encode(value))
}

/** Throws MESH0210 for anything but one dag-cbor value without trailing bytes. */
export function decodeCbor(bytes: Uint8Array, what: string): unknown {
  try {
    return dagCbor.decode(bytes)
  } catch (error) {
    throw new MeshError('MESH0210', `${what} is not dag-cbor: ${messageOf(error)}`)
  }
}

/** Encodes through the schema, so that what leaves has the declared form. */
export function encodeObject<T>(schema: z.ZodType<T>, value: T): Uint8Array<ArrayBuffer> {
  return encodeCbor(z.encode(schema, value))
}

/** Decodes one message or object through its schema. Unknown keys are dropped. Throws MESH0210. */
export function decodeObject<T>(schema: z.ZodType<T>, bytes: Uint8Array, what: string): T {
  return parseWith(schema, decodeCbor(bytes, what), what)
}

/** Like `decodeObject` for hashed objects: also refuses every encoding but the canonical one. */
export function decodeCanonical<T>(schema: z.ZodType<T>, bytes: Uint8Array, what: string): T {
  if (bytes.byteLength > OBJECT_BYTES_MAX)
    throw new MeshError(
      'MESH0210',
      `${what} has ${bytes.byteLength} bytes, the limit is ${OBJECT_BYTES_MAX}`,
    )
  const value = decodeObject(schema, bytes, what)
  if (Buffer.compare(encodeObject(schema, value), bytes) !== 0)
    throw new MeshError('MESH0210', `${what} is not in its canonical encoding`)
  return value
}

/** Parses a decoded value; the first problem is named with its path. Throws MESH0210. */
export function parseWith<T>(schema: z.ZodType<T>, value: unknown, what: string): T {
  const result = schema.safeParse(value)
  if (result.success) return result.data
  const issue = result.error.issues[0]
  const path =
    issue === undefined || issue.path.length === 0 ? '' : ` at ${issue.path.map(String).join('.')}`
  throw new MeshError('MESH0210', `${what}${path}: ${issue?.message ?? 'malformed'}`)
}
