/** An attempt that builds nothing: it fetches a declared source, and tells its log where from. */
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import type { Clock } from '../../base/clock.ts'
import { MeshError } from '../../base/errors.ts'
import type { BlobStore } from '../../store/blob-store.ts'
import type { Action } from '../../wire/action.ts'
import { encodeLogRecord } from '../../wire/log-record.ts'
import type { Usage } from '../../wire/result.ts'
import type { AttemptOutcome } from '../../wire/work-messages.ts'
import { fetchSource, type FetchEnd } from '../builtin-fetch.ts'
import type { Attempt } from './attempt.ts'
import { failed } from './ends.ts'
import type { Outputs } from './results.ts'

const MESSAGE_CHARS_MAX = 4096

export type SourceEnd =
  | { readonly kind: 'stored'; readonly outputs: Outputs; readonly usage: Usage }
  | AttemptOutcome

export async function obtainSource(
  { clock, store }: { readonly clock: Clock; readonly store: BlobStore },
  attempt: Attempt,
  action: Action,
  mirrors: readonly string[],
): Promise<SourceEnd> {
  if (action.fetch === undefined) throw new MeshError('MESH0210', 'a fetch without a sha256')
  const { lease, directory, signal } = attempt
  const startedMs = clock.nowMs()
  const path = join(directory, 'source')
  const lines: string[] = []
  const end = await fetchSource(
    { urls: lease.urls, mirrors, sha256: action.fetch, path, signal },
    (line) => lines.push(`${line}\n`),
  )
  const tookMs = Math.round(clock.nowMs() - startedMs)
  await using spool = await open(attempt.logPath, 'a')
  for (const line of lines)
    await spool.write(encodeLogRecord({ stream: 'mesh', atMs: tookMs, bytes: Buffer.from(line) }))
  if (end.kind !== 'fetched') return outcomeOf(end)
  const ref = await store.putFile(path, { move: true })
  attempt.bytes.mirror += ref.size
  return {
    kind: 'stored',
    outputs: { out: { kind: 'file', ...ref, executable: false } },
    usage: { wallMs: Math.round(clock.nowMs() - startedMs), cpuMs: 0, maxRssBytes: 0 },
  }
}

function outcomeOf({ kind, message }: Exclude<FetchEnd, { kind: 'fetched' }>): AttemptOutcome {
  return kind === 'wrong'
    ? failed('MESH0407', message, 1)
    : { kind: 'infrastructure', code: 'MESH0504', message: message.slice(0, MESSAGE_CHARS_MAX) }
}
