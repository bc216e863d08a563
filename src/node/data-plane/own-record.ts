/**
 * Signs what this node says of itself. Of two records of one node the newer must win everywhere, also after
 * a start with a clock that has lost the time: the last number used is kept in `identity/record-seq`.
 */
import { join } from 'node:path'
import { z } from 'zod'
import type { Clock } from '../../base/clock.ts'
import { signRecord, type PeerFacts, type PeerRecord } from '../../wire/peer-record.ts'
import type { Signer } from '../../wire/result.ts'
import { readPrivate, writePrivate } from '../process/private-file.ts'

const FILE = 'record-seq'
/** Numbers that one life of the daemon may use; its addresses hardly ever change. */
const SEQS_PER_START = 10_000

/** A file that a person has spoilt counts as none. */
const LastSeq = z.coerce.number().pipe(z.int().min(0)).catch(0)

/** `directory` is the node's private one. The same facts give the same record. */
export async function openRecordSigner(
  deps: { readonly clock: Clock; readonly signer: Signer },
  options: { readonly directory: string },
): Promise<(facts: PeerFacts) => PeerRecord> {
  const last = LastSeq.parse((await readPrivate(join(options.directory, FILE)))?.toString())
  let seq = Math.max(deps.clock.wallMs(), last + SEQS_PER_START)
  await writePrivate(options.directory, FILE, `${seq}\n`)
  let said = ''
  let record: PeerRecord | undefined
  return (facts) => {
    const saying = JSON.stringify(facts)
    if (record !== undefined && saying === said) return record
    said = saying
    record = signRecord(facts, seq++, deps.signer)
    return record
  }
}
