/**
 * The end of a spool file, when no build writes to it any more: cut back to whole records where its writer
 * was killed, and closed by the line that says why the attempt ended.
 */
import { open, type FileHandle } from 'node:fs/promises'
import { hasCode } from '../base/errors.ts'
import {
  encodeLogRecord,
  LOG_RECORD_BYTES_MAX,
  LOG_RECORD_HEAD_BYTES,
  LogDecoder,
  logRecordHead,
  wholeRecordBytes,
} from '../wire/log-record.ts'

const READ_BYTES = 256 * 1024

/**
 * Appends `line` as a record of mesh, after the last whole record, and makes the file where there is none.
 * Resolves to its size. With `isWhole` the file is known to end with a record and is not read.
 */
export async function closeLog(
  path: string,
  line: string,
  { atMs, isWhole }: { readonly atMs: number; readonly isWhole: boolean },
): Promise<number> {
  await using file = await open(path, 'a+', 0o600)
  if (!isWhole) await file.truncate(await wholeBytes(file))
  await file.appendFile(
    encodeLogRecord({
      stream: 'mesh',
      atMs: Math.max(0, Math.round(atMs)),
      bytes: Buffer.from(`${line}\n`).subarray(0, LOG_RECORD_BYTES_MAX),
    }),
  )
  return (await file.stat()).size
}

/** Bytes of the whole records at the beginning; all that follows was torn. */
async function wholeBytes(file: FileHandle): Promise<number> {
  const buffer = Buffer.allocUnsafe(READ_BYTES)
  for (let whole = 0; ;) {
    const { bytesRead } = await file.read(buffer, 0, READ_BYTES, whole)
    // A disk that was full may have left anything there.
    const bytes = wholeRecordBytes(buffer.subarray(0, bytesRead)) ?? 0
    if (bytes === 0) return whole
    whole += bytes
  }
}

/** What a failure tells of its log: the last bytes of stdout and stderr, without what cannot be text. */
export async function tailOf(path: string, tailBytes: number): Promise<string> {
  const kept: Uint8Array[] = []
  let file: FileHandle
  try {
    file = await open(path, 'r')
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return ''
    throw error
  }
  await using opened = file
  for await (const { stream, bytes } of lastRecords(opened, tailBytes))
    if (stream !== 'mesh') kept.push(bytes)
  return Buffer.concat(kept)
    .subarray(-tailBytes)
    .toString('utf8')
    .replaceAll('\0', '')
    .replaceAll('\ufffd', '')
}

/**
 * The records that hold the last `tailBytes` of what was printed. Records lead from one to the next, from
 * the front alone: their heads are looked at, and what is not wanted is passed over.
 */
async function* lastRecords(file: FileHandle, tailBytes: number) {
  const buffer = Buffer.allocUnsafe(READ_BYTES)
  let position = await startOfTail(file, tailBytes, buffer)
  const decoder = new LogDecoder()
  for (;;) {
    const { bytesRead } = await file.read(buffer, 0, READ_BYTES, position)
    if (bytesRead === 0) return
    position += bytesRead
    yield* decoder.push(Buffer.from(buffer.subarray(0, bytesRead)))
  }
}

/** Where the record begins from which on at least `tailBytes` were printed; 0 where all is less. */
async function startOfTail(file: FileHandle, tailBytes: number, buffer: Buffer): Promise<number> {
  /** The last records, from the one sought on, with what was printed before each. */
  const last: { readonly position: number; readonly printedBytes: number }[] = []
  let printedBytes = 0
  for (let position = 0; ;) {
    const { bytesRead } = await file.read(buffer, 0, READ_BYTES, position)
    let at = 0
    while (at + LOG_RECORD_HEAD_BYTES <= bytesRead) {
      const { stream, lengthBytes } = logRecordHead(buffer, at)
      if (stream !== 'mesh') {
        last.push({ position: position + at, printedBytes })
        printedBytes += lengthBytes
      }
      while (last[1] !== undefined && printedBytes - last[1].printedBytes >= tailBytes) last.shift()
      at += LOG_RECORD_HEAD_BYTES + lengthBytes
    }
    if (at === 0) return last[0]?.position ?? 0
    // The next one may begin far behind what was read.
    position += at
  }
}
