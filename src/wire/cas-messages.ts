/**
 * `/mesh/cas/1`: what two nodes say about blobs on one frame channel. Both ends may ask and answer.
 *
 * A frame is one type byte and a body: dag-cbor, but for DATA, which has fixed binary heads. The asker
 * names byte ranges and never has more bytes under way than it has room for, so no end keeps a window.
 */
import { z } from 'zod'
import { MeshError } from '../base/errors.ts'
import { decodeObject, encodeObject, OBJECT_BYTES_MAX } from './cbor.ts'
import { CHUNKS_MAX } from './chunk-list.ts'
import { BlobRefWire, DigestBytes, Size, type Digest } from './digest.ts'

export const HAVE_ITEMS_MAX = 4096
export const GET_ITEMS_MAX = 1024
export const OFFER_ITEMS_MAX = 4096
/** Bytes of blobs in one DATA frame. */
export const DATA_BYTES_MAX = 256 * 1024
/** Chunks of one BITS; of more a bitmap is sent. */
const BITS_ADDED_MAX = 4096
/** Bytes of a chunk list in one reply. */
export const CHUNKS_REPLY_BYTES_MAX = 512 * 1024

/** In the hello of an end that takes part in swarms: join, bits, leave, and `later` as an answer. */
export const FEATURE_SWARM = 'swarm'
/** In the hello of an end that answers `chunks`. */
export const FEATURE_CHUNKS = 'chunks'

/** Chosen by the asker, unique among its requests on the channel. */
const RequestNumber = z.int().min(0).max(0xffffffff)
const ListBytes = z.int().min(0).max(OBJECT_BYTES_MAX)

/** Bit n, lowest first in each byte, tells of chunk n. */
const Bitmap = z
  .instanceof(Uint8Array)
  .refine((bytes) => bytes.byteLength <= Math.ceil(CHUNKS_MAX / 8))
const ChunkNumber = z
  .int()
  .min(0)
  .max(CHUNKS_MAX - 1)

const MESSAGES = {
  /** First frame of both ends. */
  hello: z.object({ v: z.literal(1), features: z.array(z.string().max(64)).max(64) }),
  have: z.object({ id: RequestNumber, digests: z.array(DigestBytes).min(1).max(HAVE_ITEMS_MAX) }),
  /** Bit n (lowest first in each byte) tells of digest n. */
  haveReply: z.object({
    id: RequestNumber,
    bits: z.instanceof(Uint8Array).refine((bytes) => bytes.byteLength <= HAVE_ITEMS_MAX / 8),
  }),
  /** Asks for ranges of blobs; DATA and NO answer each item. `size` is of the whole blob: another size is another blob. */
  get: z.object({
    id: RequestNumber,
    items: z
      .array(z.object({ digest: DigestBytes, size: Size, offset: Size, length: Size }))
      .min(1)
      .max(GET_ITEMS_MAX),
  }),
  /**
   * These items are not coming (any more). `failed`: the answerer could not read its own store. `later`, only
   * to members of its swarm: they are for others first, or not here yet; its bits say when.
   */
  no: z.object({
    id: RequestNumber,
    items: z
      .array(
        z
          .int()
          .min(0)
          .max(GET_ITEMS_MAX - 1),
      )
      .min(1)
      .max(GET_ITEMS_MAX),
    why: z.enum(['absent', 'denied', 'busy', 'failed', 'later']),
  }),
  /** The asker wants no more of a request. No answer; DATA under way is ignored. */
  cancel: z.object({ id: RequestNumber }),
  /** "Get these from me": a put in which the receiver pulls what it lacks. */
  offer: z.object({ id: RequestNumber, refs: z.array(BlobRefWire).min(1).max(OFFER_ITEMS_MAX) }),
  /** Sent when the receiver has all of them, or gave up. */
  offerReply: z.object({ id: RequestNumber, ok: z.boolean(), message: z.string().max(2000) }),
  ping: z.object({ id: RequestNumber }),
  pong: z.object({ id: RequestNumber }),
  /**
   * "I am fetching this blob after the chunk list with this sha256, have these chunks, and want to exchange
   * them": answered by bits, or by leave when there is no room.
   */
  join: z.object({ digest: DigestBytes, size: Size, list: DigestBytes, bitmap: Bitmap }),
  /** What may be asked for from now on: these besides, or just those of the bitmap. */
  bits: z.object({
    digest: DigestBytes,
    added: z.array(ChunkNumber).max(BITS_ADDED_MAX).optional(),
    bitmap: Bitmap.optional(),
  }),
  /** Tell me no more of this blob, and ask no more as a member. */
  leave: z.object({ digest: DigestBytes }),
  /** Asks for the chunk list of a blob (wire/chunk-list.ts): its encoding from `offset` on. */
  chunks: z.object({ id: RequestNumber, digest: DigestBytes, offset: ListBytes }),
  /** As much of it as fits; `size` is of the whole encoding, 0 when there is no list. */
  chunksReply: z.object({
    id: RequestNumber,
    size: ListBytes,
    bytes: z.instanceof(Uint8Array).refine((bytes) => bytes.byteLength <= CHUNKS_REPLY_BYTES_MAX),
  }),
} as const

type Messages = { [Type in keyof typeof MESSAGES]: z.infer<(typeof MESSAGES)[Type]> }
/** A control message. */
export type CasMessage = {
  [Type in keyof Messages]: { type: Type } & Messages[Type]
}[keyof Messages]

/** Type bytes on the wire; never reused. */
const CODES = {
  hello: 1,
  have: 2,
  haveReply: 3,
  get: 4,
  no: 6,
  cancel: 7,
  offer: 8,
  offerReply: 9,
  ping: 10,
  pong: 11,
  join: 12,
  bits: 13,
  leave: 14,
  chunks: 15,
  chunksReply: 16,
} as const
const DATA_CODE = 5

/** A run of bytes of one item of a GET. `isLast`: the item is complete with it. */
export interface DataPiece {
  readonly id: number
  readonly item: number
  readonly offset: number
  readonly isLast: boolean
  readonly bytes: Uint8Array
}

/** u32 id | u16 item | u8 flags (1: last) | u64 offset | u32 length, big-endian. */
const PIECE_HEAD_BYTES = 19

export function encodeCasMessage(message: CasMessage): Uint8Array {
  const { type, ...body } = message
  const schema: z.ZodType = MESSAGES[type]
  return Buffer.concat([Buffer.of(CODES[type]), encodeObject(schema, body)])
}

export function encodeData(pieces: readonly DataPiece[]): Uint8Array {
  const size = pieces.reduce((sum, { bytes }) => sum + PIECE_HEAD_BYTES + bytes.byteLength, 1)
  const frame = Buffer.allocUnsafe(size)
  frame.writeUInt8(DATA_CODE, 0)
  let at = 1
  for (const { id, item, offset, isLast, bytes } of pieces) {
    frame.writeUInt32BE(id, at)
    frame.writeUInt16BE(item, at + 4)
    frame.writeUInt8(isLast ? 1 : 0, at + 6)
    frame.writeBigUInt64BE(BigInt(offset), at + 7)
    frame.writeUInt32BE(bytes.byteLength, at + 15)
    frame.set(bytes, at + PIECE_HEAD_BYTES)
    at += PIECE_HEAD_BYTES + bytes.byteLength
  }
  return frame
}

/**
 * Reads any frame; the bytes of DATA are views of it. Throws MESH0210, after which the channel is not to
 * be used any more. Undefined for a type of a newer peer.
 */
export function decodeCasFrame(
  frame: Uint8Array,
): CasMessage | { type: 'data'; pieces: DataPiece[] } | undefined {
  const code = frame[0]
  const body = frame.subarray(1)
  switch (code) {
    case DATA_CODE:
      return { type: 'data', pieces: decodeData(body) }
    case CODES.hello:
      return { type: 'hello', ...decodeObject(MESSAGES.hello, body, 'cas hello') }
    case CODES.have:
      return { type: 'have', ...decodeObject(MESSAGES.have, body, 'cas have') }
    case CODES.haveReply:
      return { type: 'haveReply', ...decodeObject(MESSAGES.haveReply, body, 'cas have reply') }
    case CODES.get:
      return { type: 'get', ...decodeObject(MESSAGES.get, body, 'cas get') }
    case CODES.no:
      return { type: 'no', ...decodeObject(MESSAGES.no, body, 'cas no') }
    case CODES.cancel:
      return { type: 'cancel', ...decodeObject(MESSAGES.cancel, body, 'cas cancel') }
    case CODES.offer:
      return { type: 'offer', ...decodeObject(MESSAGES.offer, body, 'cas offer') }
    case CODES.offerReply:
      return { type: 'offerReply', ...decodeObject(MESSAGES.offerReply, body, 'cas offer reply') }
    case CODES.ping:
      return { type: 'ping', ...decodeObject(MESSAGES.ping, body, 'cas ping') }
    case CODES.pong:
      return { type: 'pong', ...decodeObject(MESSAGES.pong, body, 'cas pong') }
    case CODES.join:
      return { type: 'join', ...decodeObject(MESSAGES.join, body, 'cas join') }
    case CODES.bits:
      return { type: 'bits', ...decodeObject(MESSAGES.bits, body, 'cas bits') }
    case CODES.leave:
      return { type: 'leave', ...decodeObject(MESSAGES.leave, body, 'cas leave') }
    case CODES.chunks:
      return { type: 'chunks', ...decodeObject(MESSAGES.chunks, body, 'cas chunks') }
    case CODES.chunksReply:
      return {
        type: 'chunksReply',
        ...decodeObject(MESSAGES.chunksReply, body, 'cas chunks reply'),
      }
    case undefined:
      throw new MeshError('MESH0210', 'cas frame is empty')
    default:
      return undefined
  }
}

function decodeData(body: Uint8Array): DataPiece[] {
  const buffer = Buffer.from(body.buffer, body.byteOffset, body.byteLength)
  const pieces: DataPiece[] = []
  for (let at = 0; at < buffer.byteLength;) {
    if (buffer.byteLength - at < PIECE_HEAD_BYTES)
      throw new MeshError('MESH0210', 'cas data ends in a head')
    const start = at + PIECE_HEAD_BYTES
    const end = start + buffer.readUInt32BE(at + 15)
    if (end > buffer.byteLength) throw new MeshError('MESH0210', 'cas data ends in a piece')
    pieces.push({
      id: buffer.readUInt32BE(at),
      item: buffer.readUInt16BE(at + 4),
      isLast: (buffer.readUInt8(at + 6) & 1) === 1,
      offset: Number(buffer.readBigUInt64BE(at + 7)),
      bytes: buffer.subarray(start, end),
    })
    at = end
  }
  return pieces
}

/** The body of `POST /cas/batch`: the digests asked for. */
const BatchRequest = z.array(DigestBytes).min(1).max(GET_ITEMS_MAX)
/** The longest valid body: a list head and 34 bytes per digest. */
export const BATCH_REQUEST_BYTES_MAX = 16 + GET_ITEMS_MAX * 34

export const encodeBatchRequest = (digests: readonly Digest[]): Uint8Array<ArrayBuffer> =>
  encodeObject(BatchRequest, [...digests])
/** Throws MESH0210. */
export const decodeBatchRequest = (bytes: Uint8Array): Digest[] =>
  decodeObject(BatchRequest, bytes, 'batch request')
