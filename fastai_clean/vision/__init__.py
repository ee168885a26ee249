"Noisy Imagenette, Imagewoof and MNIST: frames, DataLoaders and Learners"
from .data import NOISE_LEVELS, imagenette_path, imagenette_version, noisy_imagenette, noisy_mnist
from .learners import gradual_unfreeze, imagenette_dls, imagenette_learner, mnist_learner

__all__ = ['NOISE_LEVELS', 'gradual_unfreeze', 'imagenette_dls', 'imagenette_learner', 'imagenette_path',
           'imagenette_version', 'mnist_learner', 'noisy_imagenette', 'noisy_mnist']
