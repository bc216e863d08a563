/** Kinds of jobs that a machine may be meant for, and what one of each kind usually needs. */

const MIB = 1024 ** 2

/** What is known before anything was learnt from real jobs; the mesh learns the rest per derivation. */
export interface JobKind {
  /** As people name it. */
  readonly text: string
  /** From here on more processors hardly make one job faster. */
  readonly cpusPerJob: number
  /** For one process that such a job keeps running on each of its processors. */
  readonly memoryPerCpuBytes: number
  readonly why: string
}

export const JOB_KIND_NAMES = ['c', 'large-c', 'java', 'mixed'] as const
export type JobKindName = (typeof JOB_KIND_NAMES)[number]

export const JOB_KINDS: Readonly<Record<JobKindName, JobKind>> = {
  c: {
    text: 'C programs and small C++',
    cpusPerJob: 2,
    memoryPerCpuBytes: 512 * MIB,
    why: 'a C compiler takes 50 to 500 MiB',
  },
  'large-c': {
    text: 'large C++, Rust, linking with LTO',
    cpusPerJob: 8,
    memoryPerCpuBytes: 2048 * MIB,
    why: 'a compiler or linker of large C++ or Rust takes 1 to 4 GiB',
  },
  java: {
    text: 'Java, Kotlin, Scala, JavaScript',
    cpusPerJob: 4,
    memoryPerCpuBytes: 1024 * MIB,
    why: 'a virtual machine takes 2 to 4 GiB and uses about four processors',
  },
  mixed: {
    text: 'some of everything',
    cpusPerJob: 4,
    memoryPerCpuBytes: 1024 * MIB,
    why: '1 GiB for each compiler is enough for most packages of a distribution',
  },
}

export const isJobKind = (word: string): word is JobKindName => Object.hasOwn(JOB_KINDS, word)
